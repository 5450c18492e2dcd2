"""What stands between a clean clone and a build: the toolchain, PostgreSQL, and the extension in a private server."""
