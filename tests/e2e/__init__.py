"""End-to-end harness: private PostgreSQL clusters, a protocol client and a test runner. Needs only Python >= 3.9.

Importable as `e2e` when `tests/` is on `sys.path`; the demo and the benches use it in that way.
"""
