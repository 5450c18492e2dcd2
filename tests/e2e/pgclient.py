"""A small PostgreSQL client in pure Python: one `Connection` per session, protocol 3.0, no dependency.

Written for tests, so it shows what drivers hide: partial execution of portals, cancel requests, sockets that die,
notices, every field of an error, and bytes that are not UTF-8. It speaks to trust-authenticated servers only.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Callable, Iterable, Optional, Sequence, Union

PROTOCOL_VERSION = 196608  # 3.0
CANCEL_REQUEST = 80877102
ERROR_FIELDS = {
    "S": "severity_local", "V": "severity", "C": "sqlstate", "M": "message", "D": "detail", "H": "hint",
    "P": "position", "p": "internal_position", "q": "internal_query", "W": "where", "s": "schema", "t": "table",
    "c": "column", "d": "datatype", "n": "constraint", "F": "file", "L": "line", "R": "routine",
}
# Client encodings whose Python name is not the server's name in lower case.
PYTHON_ENCODINGS = {"UTF8": "utf-8", "SQL_ASCII": "utf-8", "LATIN1": "latin-1", "WIN1252": "cp1252", "EUC_JP": "euc_jp"}


class SqlError(Exception):
    """An ErrorResponse. `fields` holds everything the server sent; the common ones are attributes."""

    def __init__(self, fields: dict[str, str]) -> None:
        self.fields = fields
        self.sqlstate = fields.get("sqlstate", "")
        self.severity = fields.get("severity", "")
        self.message = fields.get("message", "")
        self.detail = fields.get("detail")
        self.hint = fields.get("hint")
        super().__init__(f"{self.severity} {self.sqlstate}: {self.message}" + (f" ({self.detail})" if self.detail else ""))


class ConnectionLost(Exception):
    """The server closed the socket without saying why (it crashed, or was killed)."""


@dataclass
class Result:
    """What one statement gave back."""

    columns: list[str] = field(default_factory=list)
    type_oids: list[int] = field(default_factory=list)
    rows: list[tuple] = field(default_factory=list)
    tag: str = ""
    suspended: bool = False
    copied: bytes = b""

    def scalar(self) -> Any:
        """The only value of the only row; anything else is a mistake in the test."""
        if len(self.rows) != 1 or len(self.rows[0]) != 1:
            raise ValueError(f"expected one value, got {len(self.rows)} rows of {len(self.columns)} columns")
        return self.rows[0][0]

    def dicts(self) -> list[dict[str, Any]]:
        """The rows as dictionaries by column name."""
        return [dict(zip(self.columns, row)) for row in self.rows]


def parse_array(text: str, element: Callable[[str], Any]) -> list:
    """Reads a PostgreSQL array literal of any depth; NULL elements become None."""
    if text.startswith("["):  # explicit bounds: [0:1]={...}
        text = text[text.index("=") + 1:]
    stack: list[list] = []
    current: list = []
    position = 0
    while position < len(text):
        char = text[position]
        if char == "{":
            stack.append(current)
            current = []
        elif char == "}":
            done, current = current, stack.pop()
            current.append(done)
        elif char == '"':
            value = []
            position += 1
            while text[position] != '"':
                position += text[position] == "\\"
                value.append(text[position])
                position += 1
            current.append(element("".join(value)))
        elif char != ",":
            end = position
            while text[end] not in ",}":
                end += 1
            word = text[position:end]
            current.append(None if word == "NULL" else element(word))
            position = end - 1
        position += 1
    return current[0]


def _is_true(text: str) -> bool:
    return text == "t"


# Types that come back as Python values; every other type comes back as the text the server printed.
SCALAR_READERS: dict[int, Callable[[str], Any]] = {
    16: _is_true, 20: int, 21: int, 23: int, 26: int, 700: float, 701: float, 1700: Decimal,
    114: json.loads, 3802: json.loads,
}
ARRAY_ELEMENTS: dict[int, Callable[[str], Any]] = {
    1000: _is_true, 1005: int, 1007: int, 1016: int, 1028: int, 1021: float, 1022: float, 1231: Decimal,
    1009: str, 1015: str, 1003: str, 2211: str, 2949: str, 199: json.loads, 3807: json.loads,
}


def read_value(text: str, type_oid: int) -> Any:
    """Turns the text form of a value into the Python value of its type."""
    if type_oid in SCALAR_READERS:
        return SCALAR_READERS[type_oid](text)
    if type_oid in ARRAY_ELEMENTS:
        return parse_array(text, ARRAY_ELEMENTS[type_oid])
    return text


class Connection:
    """One session. Not safe for use by two threads at once, except for `cancel()`."""

    def __init__(self, host: str, port: int, user: str = "postgres", database: str = "postgres",
                 application_name: str = "perf_opt tests", client_encoding: str = "UTF8",
                 timeout: float = 60.0, raw: bool = False, **startup: str) -> None:
        """Connects to a socket directory (`host` begins with /) or over TCP.

        `timeout` bounds every wait for the server in seconds; `raw` returns values as bytes; `startup` are further
        startup parameters, for instance `options="-c work_mem=64kB"` or `replication="database"`.
        """
        self.host, self.port = host, port
        self.encoding = PYTHON_ENCODINGS.get(client_encoding.upper(), client_encoding.lower())
        self.raw = raw
        self.parameters: dict[str, str] = {}
        self.notices: list[dict[str, str]] = []
        self.notifications: list[tuple[int, str, str]] = []
        self.pid = 0
        self.transaction_status = "?"
        self._key = 0
        self._buffer = bytearray()
        self._pending = False
        self._socket = self._open(timeout)
        settings = {"user": user, "database": database, "application_name": application_name,
                    "client_encoding": client_encoding, **startup}
        body = struct.pack("!i", PROTOCOL_VERSION)
        body += b"".join(self._cstring(name) + self._cstring(value) for name, value in settings.items()) + b"\0"
        try:
            self._socket.sendall(struct.pack("!i", len(body) + 4) + body)
            self._finish_startup()
        except BaseException:
            self._socket.close()
            raise

    # -- the public face ---------------------------------------------------------------------------------------

    def query(self, sql: Union[str, bytes]) -> Result:
        """Runs one or more statements by the simple protocol; the result of the last one."""
        results = self.query_all(sql)
        return results[-1] if results else Result()

    def query_all(self, sql: Union[str, bytes]) -> list[Result]:
        """Runs a multi-statement string by the simple protocol; one result per statement."""
        self.send_async(sql)
        return self._collect()

    def execute(self, sql: Union[str, bytes], params: Sequence[Any] = (), max_rows: int = 0) -> Result:
        """Runs one statement by the extended protocol. `max_rows` > 0 stops there (`Result.suspended`)."""
        self.send_execute(sql, params, max_rows)
        return self.wait()

    def prepare(self, name: str, sql: Union[str, bytes], param_types: Sequence[int] = ()) -> None:
        """Prepares a named statement on the server."""
        self._send(self._parse(name, sql, param_types) + self._sync())
        self._collect()

    def execute_prepared(self, name: str, params: Sequence[Any] = (), max_rows: int = 0) -> Result:
        """Binds and executes a prepared statement."""
        self._send(self._bind("", name, params) + self._describe("") + self._run("", max_rows) + self._sync())
        return self.wait()

    def bind(self, portal: str, statement: str, params: Sequence[Any] = ()) -> None:
        """Opens a named portal over a prepared statement; it lives until the end of the transaction."""
        self._send(self._bind(portal, statement, params) + self._sync())
        self._collect()

    def fetch(self, portal: str, max_rows: int = 0) -> Result:
        """Executes (or goes on executing) a named portal."""
        self._send(self._describe(portal) + self._run(portal, max_rows) + self._sync())
        return self.wait()

    def close_portal(self, portal: str) -> None:
        """Closes a named portal, finished or not."""
        self._send(self._message(b"C", b"P" + self._cstring(portal)) + self._sync())
        self._collect()

    def deallocate(self, statement: str) -> None:
        """Closes a prepared statement by the protocol, not by SQL."""
        self._send(self._message(b"C", b"S" + self._cstring(statement)) + self._sync())
        self._collect()

    def send_async(self, sql: Union[str, bytes]) -> None:
        """Sends a simple query and returns at once; `wait()` collects it."""
        self._send(self._message(b"Q", self._cstring(sql)))

    def send_execute(self, sql: Union[str, bytes], params: Sequence[Any] = (), max_rows: int = 0) -> None:
        """Sends an extended query and returns at once; `wait()` collects it."""
        self._send(self._parse("", sql, ()) + self._bind("", "", params) + self._describe("")
                   + self._run("", max_rows) + self._sync())

    def wait(self, timeout: Optional[float] = None) -> Result:
        """Collects what `send_async` or `send_execute` started; raises its error, or TimeoutError."""
        previous = self._socket.gettimeout()
        if timeout is not None:
            self._socket.settimeout(timeout)
        try:
            results = self._collect()
        finally:
            if self._socket.fileno() >= 0:
                self._socket.settimeout(previous)
        return results[-1] if results else Result()

    def copy_in(self, sql: str, data: Union[bytes, Iterable[bytes]], fail: Optional[str] = None) -> Result:
        """Runs COPY ... FROM STDIN with `data`; with `fail` the client aborts the copy with that message."""
        self.send_async(sql)
        while True:
            kind, body = self._receive()
            if kind == b"G":
                break
            if kind == b"E":
                self._collect(first_error=self._fields(body))
            self._handle_async(kind, body)
        for chunk in [data] if isinstance(data, (bytes, bytearray)) else data:
            self._socket.sendall(self._message(b"d", bytes(chunk)))
        self._socket.sendall(self._message(b"f", self._cstring(fail)) if fail is not None else self._message(b"c", b""))
        return self._collect()[-1]

    def copy_out(self, sql: str) -> bytes:
        """Runs COPY ... TO STDOUT; the bytes the server sent."""
        return self.query(sql).copied

    def cancel(self) -> None:
        """Sends a CancelRequest for this session over a second socket. May be called from another thread."""
        with self._open(10.0) as other:
            other.sendall(struct.pack("!iiii", 16, CANCEL_REQUEST, self.pid, self._key))
            try:
                other.recv(1)  # the server closes the socket when it has handed the request on
            except ConnectionResetError:
                pass

    def close(self) -> None:
        """Says goodbye and closes; harmless when called twice."""
        if self._socket.fileno() >= 0:
            try:
                self._socket.sendall(self._message(b"X", b""))
            except OSError:
                pass
            self._socket.close()

    def terminate_socket(self) -> None:
        """Drops the socket without a goodbye, as a client that died does."""
        self._socket.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- messages out ------------------------------------------------------------------------------------------

    def _encode(self, text: Union[str, bytes]) -> bytes:
        return text if isinstance(text, bytes) else text.encode(self.encoding, "surrogateescape")

    def _cstring(self, text: Union[str, bytes]) -> bytes:
        return self._encode(text) + b"\0"

    @staticmethod
    def _message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!i", len(body) + 4) + body

    def _parse(self, name: str, sql: Union[str, bytes], param_types: Sequence[int]) -> bytes:
        oids = struct.pack(f"!h{len(param_types)}I", len(param_types), *param_types)
        return self._message(b"P", self._cstring(name) + self._cstring(sql) + oids)

    def _bind(self, portal: str, statement: str, params: Sequence[Any]) -> bytes:
        body = self._cstring(portal) + self._cstring(statement) + struct.pack("!hh", 0, len(params))
        for param in params:
            if param is None:
                body += struct.pack("!i", -1)
            else:
                value = self._encode(self._literal(param))
                body += struct.pack("!i", len(value)) + value
        return self._message(b"B", body + struct.pack("!h", 0))

    def _literal(self, value: Any) -> Union[str, bytes]:
        """The text form of a parameter."""
        if isinstance(value, bool):
            return "t" if value else "f"
        if isinstance(value, (list, tuple)):
            return "{" + ",".join("NULL" if item is None else self._quoted(item) for item in value) + "}"
        if isinstance(value, dict):
            return json.dumps(value)
        return value if isinstance(value, (str, bytes)) else str(value)

    def _quoted(self, item: Any) -> str:
        if isinstance(item, (list, tuple)):
            return str(self._literal(item))
        return '"' + str(self._literal(item)).replace("\\", "\\\\").replace('"', '\\"') + '"'

    def _describe(self, portal: str) -> bytes:
        return self._message(b"D", b"P" + self._cstring(portal))

    def _run(self, portal: str, max_rows: int) -> bytes:
        return self._message(b"E", self._cstring(portal) + struct.pack("!i", max_rows))

    def _sync(self) -> bytes:
        return self._message(b"S", b"")

    def _send(self, data: bytes) -> None:
        if self._pending:
            raise RuntimeError("the previous query has not been collected: call wait() first")
        self._pending = True
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # what the server said before it hung up is read by _collect

    # -- messages in -------------------------------------------------------------------------------------------

    def _open(self, timeout: float) -> socket.socket:
        if self.host.startswith("/"):
            opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            opened.settimeout(timeout)
            try:
                opened.connect(f"{self.host}/.s.PGSQL.{self.port}")
            except BaseException:
                opened.close()
                raise
            return opened
        return socket.create_connection((self.host, self.port), timeout)

    def _receive(self) -> tuple[bytes, bytes]:
        """The next message: its kind and its body."""
        header = self._read(5)
        return header[:1], self._read(struct.unpack("!i", header[1:])[0] - 4)

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            try:
                chunk = self._socket.recv(max(65536, size - len(self._buffer)))
            except ConnectionResetError:
                chunk = b""
            except socket.timeout:  # another class than TimeoutError before Python 3.10
                raise TimeoutError(f"no answer from the server in {self._socket.gettimeout():g} s") from None
            if not chunk:
                self._socket.close()
                raise ConnectionLost("the server closed the connection")
            self._buffer += chunk
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _text(self, data: bytes) -> str:
        return data.decode(self.encoding, "surrogateescape")

    def _fields(self, body: bytes) -> dict[str, str]:
        parts = [part for part in body.split(b"\0") if part]
        return {ERROR_FIELDS.get(chr(part[0]), chr(part[0])): self._text(part[1:]) for part in parts}

    def _finish_startup(self) -> None:
        while True:
            kind, body = self._receive()
            if kind == b"R":
                if struct.unpack("!i", body[:4])[0] != 0:
                    raise NotImplementedError("this client speaks trust authentication only")
            elif kind == b"K":
                self.pid, self._key = struct.unpack("!ii", body)
            elif kind == b"E":
                raise SqlError(self._fields(body))
            elif kind == b"Z":
                self.transaction_status = chr(body[0])
                return
            else:
                self._handle_async(kind, body)

    def _handle_async(self, kind: bytes, body: bytes) -> bool:
        """Takes what may come at any time: notices, parameter changes, notifications."""
        if kind == b"N":
            self.notices.append(self._fields(body))
        elif kind == b"S":
            name, value = body.split(b"\0")[:2]
            self.parameters[self._text(name)] = self._text(value)
        elif kind == b"A":
            channel, payload = body[4:].split(b"\0")[:2]
            self.notifications.append((struct.unpack("!i", body[:4])[0], self._text(channel), self._text(payload)))
        else:
            return False
        return True

    def _collect(self, first_error: Optional[dict[str, str]] = None) -> list[Result]:
        """Reads up to ReadyForQuery; raises the first error then, when the session is usable again."""
        results: list[Result] = []
        current = Result()
        error = first_error
        while True:
            try:
                kind, body = self._receive()
            except ConnectionLost:
                self._pending = False
                if error is not None:
                    raise SqlError(error) from None
                raise
            if kind == b"Z":
                self.transaction_status = chr(body[0])
                self._pending = False
                if error is not None:
                    raise SqlError(error)
                return results
            if kind == b"T":
                self._read_columns(current, body)
            elif kind == b"D":
                current.rows.append(self._read_row(current, body))
            elif kind == b"d":
                current.copied += body
            elif kind in (b"C", b"s", b"I"):
                current.tag = self._text(body[:-1]) if kind == b"C" else ""
                current.suspended = kind == b"s"
                results.append(current)
                current = Result()
            elif kind == b"E":
                error = error or self._fields(body)
            elif kind == b"G":  # COPY FROM STDIN sent by query(): there is no data for it
                self._socket.sendall(self._message(b"f", self._cstring("use copy_in()")))
            else:
                self._handle_async(kind, body)

    def _read_columns(self, result: Result, body: bytes) -> None:
        position = 2
        for _ in range(struct.unpack("!h", body[:2])[0]):
            end = body.index(b"\0", position)
            result.columns.append(self._text(body[position:end]))
            result.type_oids.append(struct.unpack("!I", body[end + 7:end + 11])[0])
            position = end + 19

    def _read_row(self, result: Result, body: bytes) -> tuple:
        values: list[Any] = []
        position = 2
        for column in range(struct.unpack("!h", body[:2])[0]):
            size = struct.unpack("!i", body[position:position + 4])[0]
            position += 4
            if size < 0:
                values.append(None)
                continue
            data = body[position:position + size]
            position += size
            values.append(data if self.raw else read_value(self._text(data), result.type_oids[column]))
        return tuple(values)
