#!/usr/bin/env python3
"""What was exported says what `nvmx query` says, to tools that are none of ours.

    python3 tests/export.py NVMX FOLDER TRACE...

NVMX is the binary, FOLDER an empty place for files. Each trace is exported to Parquet, Arrow and CSV; DuckDB reads the
Parquet and the CSV files, pyarrow the Arrow files, and Debian's `capnp` the traces themselves, as docs/format.md tells. For
every table these must agree with `nvmx query` on the number of rows, and for every column on the number of nulls, the least
and the greatest value, a sum, and the rows by each word. `capnp` is asked for rows and sums of numbers as they are stored.

It needs DuckDB and pyarrow (`python3 -m venv venv; venv/bin/pip install duckdb pyarrow`) and Debian's `capnproto`. A trace of
more than BIG events is not given to `capnp`, whose output is text. Exit status 0 when all agrees, 1 when not, 77 when
something is missing.
"""

import csv
import io
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import zlib

BIG = 1_000_000
# A prime below 2^16: sums of what is left stay exact everywhere.
PRIME = 65521


def missing(what):
    print(f"SKIPPED: {what}", file=sys.stderr)
    sys.exit(77)


try:
    import duckdb
    import pyarrow
    import pyarrow.ipc
except ImportError as error:
    missing(f"{error}: pip install duckdb pyarrow")
if not shutil.which("capnp"):
    missing("`capnp` is not installed: apt-get install capnproto")

failures = 0


def check(what, got, want):
    global failures
    if got != want:
        failures += 1
        print(f"{what}:\n  got  {got}\n  want {want}", file=sys.stderr)


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}: exit status {done.returncode}: {done.stderr.decode()}")
    return done.stdout


def questions(columns):
    """SQL that both `nvmx query` and DuckDB answer, about a table with these columns."""
    parts = ["COUNT(*) AS n"]
    for name, kind in columns.items():
        parts.append(f'COUNT("{name}") AS c_{name}')
        if kind in ("int64", "uint64"):
            parts.append(f'MIN("{name}") AS l_{name}')
            parts.append(f'MAX("{name}") AS m_{name}')
            parts.append(f'SUM("{name}" % {PRIME}) AS s_{name}')
    yield f"SELECT {', '.join(parts)} FROM t"
    for name, kind in columns.items():
        if kind in ("string", "boolean"):
            yield f'SELECT "{name}" AS word, COUNT(*) AS n FROM t GROUP BY "{name}"'


def plain(cell):
    """A cell as text, the same whoever gives it."""
    if cell is None or cell == "":
        return None
    if isinstance(cell, bool):
        return str(cell).lower()
    return str(cell)


def rows_of(cells):
    return sorted(([plain(cell) for cell in row] for row in cells), key=str)


def ask_nvmx(nvmx, trace, table, sql):
    text = run(nvmx, "query", trace, sql.replace(" FROM t", f" FROM {table}"), "--format", "csv").decode()
    rows = list(csv.reader(io.StringIO(text)))[1:]
    # A sum of nothing is null to some and 0 to others.
    return rows_of(rows)


def ask_duckdb(database, source, sql):
    return rows_of(database.execute(sql.replace(" FROM t", f" FROM {source}")).fetchall())


def zeroed(rows):
    return [[None if cell == "0" else cell for cell in row] for row in rows]


DUCKDB_TYPES = {"int64": "BIGINT", "uint64": "UBIGINT", "boolean": "BOOLEAN", "string": "VARCHAR"}


def sources(database, folders, table, name, columns):
    """The table of one trace, by each way of reading it."""
    place = f"{table}/trace={name}/part-0"
    yield "parquet", f"read_parquet('{folders['parquet']}/{place}.parquet', hive_partitioning=false)"
    types = ", ".join(f"'{column}': '{DUCKDB_TYPES[kind]}'" for column, kind in columns.items())
    options = f"header=true, auto_detect=false, delim=',', quote='\"', escape='\"', columns={{{types}}}"
    yield "csv", f"read_csv('{folders['csv']}/{place}.csv', hive_partitioning=false, {options})"
    with pyarrow.ipc.open_file(f"{folders['arrow']}/{place}.arrow") as file:
        arrow = file.read_all()
    arrow.validate(full=True)
    check(f"{place}.arrow: columns", arrow.schema.names, list(columns))
    words = [field.name for field in arrow.schema if pyarrow.types.is_dictionary(field.type)]
    if table == "exits":
        check("words of exits", words, ["reason", "handled_by"])
    database.register("arrow_table", arrow)
    yield "arrow", "arrow_table"


# --- A trace without any of our code: docs/format.md ---

MASK = (1 << 64) - 1


def blocks(trace, schema):
    data = pathlib.Path(trace).read_bytes()
    assert data[:8] == b"\x89NVMX\r\n\n" and zlib.crc32(data[:12]) == struct.unpack_from("<I", data, 12)[0]
    at = 16
    while at + 32 <= len(data):
        tag, stored, length, _, _, crc, head_crc = struct.unpack_from("<4sIIIQII", data, at)
        if tag not in (b"HEAD", b"EVTS"):
            break
        body = data[at + 32 : at + 32 + stored]
        assert zlib.crc32(data[at : at + 28]) == head_crc and zlib.crc32(body) == crc
        at += 32 + stored
        if tag == b"EVTS":
            if stored != length:
                body = pyarrow.decompress(body, decompressed_size=length, codec="zstd").to_pybytes()
            words = ["capnp", "convert", "binary:json", schema, "Block"]
            yield json.loads(subprocess.run(words, input=body, capture_output=True, check=True).stdout)


def values(columns, at, rows):
    """The values of a column of a table, of which it may need earlier ones."""
    column = columns[at]
    stored = next((column[width] for width in ("u8", "u16", "u32", "u64") if width in column), None)
    stored = [int(column["same"])] * rows if stored is None else [int(value) for value in stored]
    coding = column.get("coding", "plain")
    if coding == "plain":
        return stored
    step = [value >> 1 ^ -(value & 1) for value in stored]
    if coding == "delta":
        last, out = 0, []
        for value in step:
            last = last + value & MASK
            out.append(last)
        return out
    keys = [values(columns, int(key), rows) for key in column["keys"]]
    if coding == "relative":
        return [key + value & MASK for key, value in zip(keys[0], step)]
    assert coding == "keyed", coding
    last, out = {}, []
    for key, value in zip(zip(*keys), step):
        last[key] = last.get(key, 0) + value & MASK
        out.append(last[key])
    return out


# The table of `nvmx query` for each kind, and columns that it shows as they are stored.
STORED = {
    "exit": ("exits", ["level", "qualification", "rip", "length", "gpa", "gla"]),
    "entry": ("entries", ["level", "vpid", "fields_written"]),
    "vmcs": ("vmcs", []),
    "pool": ("pool", ["slot", "written", "skipped"]),
    "vpid": ("vpids", ["vpid12", "vpid02"]),
    "ept": ("ept", ["gpa", "size", "old", "new"]),
    "injection": ("injections", ["level", "error_code"]),
    "input": ("inputs", ["poll", "value"]),
    "migration": ("migrations", ["from"]),
    "mark": ("marks", ["value"]),
    "digest": ("digests", ["value"]),
    "lost": ("lost", ["value"]),
    "stop": ("stops", ["code"]),
    "registers": ("registers", ["rax", "rsp", "rdi", "r15"]),
    "flush": ("flushes", []),
}


def by_capnp(trace, schema):
    """Rows of each table and sums of its columns."""
    counts, sums = {}, {}
    for block in blocks(trace, schema):
        for table in block.get("tables", []):
            name, rows, columns = table["name"], int(table["rows"]), table.get("columns", [])
            counts[name] = counts.get(name, 0) + rows
            for at, column in enumerate(columns):
                if column["name"] in STORED.get(name, ("", []))[1]:
                    key = (name, column["name"])
                    sums[key] = sums.get(key, 0) + sum(value % PRIME for value in values(columns, at, rows))
    return counts, sums


def check_capnp(database, parquet, trace, name, schema):
    counts, sums = by_capnp(trace, schema)
    for kind, (table, columns) in STORED.items():
        source = f"read_parquet('{parquet}/{table}/trace={name}/*.parquet', hive_partitioning=false)"
        # A flush that is missing is no event.
        where = " WHERE verdict <> 'missing'" if table == "flushes" else ""
        rows = database.execute(f"SELECT COUNT(*) FROM {source}{where}").fetchone()[0]
        check(f"{trace}: {table}: rows by capnp", counts.get(kind, 0), rows)
        for column in columns:
            if (kind, column) not in sums:
                continue
            total = database.execute(f'SELECT SUM("{column}" % {PRIME}) FROM {source}').fetchone()[0]
            check(f"{trace}: {table}.{column}: sum by capnp", sums[(kind, column)], int(total or 0))


def main(nvmx, folder, *traces):
    schema = pathlib.Path(__file__).resolve().parent.parent / "traces/schema/trace.capnp"
    folder = pathlib.Path(folder)
    folders = {format: folder / format for format in ("parquet", "arrow", "csv")}
    for format, place in folders.items():
        run(nvmx, "-q", "export", *traces, "--to", format, "-o", place)
    database = duckdb.connect()
    tables = json.loads((folders["parquet"] / "_nvmx.json").read_text())["tables"]
    names = [path.parent.name.removeprefix("trace=") for path in sorted((folders["csv"] / "traces").glob("*/*"))]
    check("traces", len(names), len(traces))
    by_name = {pathlib.Path(trace).stem: trace for trace in traces}
    check("names", sorted(by_name), sorted(names))
    asked = 0
    for table, columns in tables.items():
        if table == "traces":
            continue
        for name, trace in by_name.items():
            wanted = {sql: ask_nvmx(nvmx, trace, table, sql) for sql in questions(columns)}
            for way, source in sources(database, folders, table, name, columns):
                for sql, want in wanted.items():
                    asked += 1
                    got = ask_duckdb(database, source, sql)
                    check(f"{trace}: {table}: {way}: {sql}", zeroed(got), zeroed(want))
        # All traces as one table, by the folders' names.
        whole = f"read_parquet('{folders['parquet']}/{table}/*/*.parquet', hive_partitioning=true)"
        sql = f"SELECT trace, COUNT(*) FROM {whole} GROUP BY trace"
        got = {str(trace): rows for trace, rows in database.execute(sql).fetchall()}
        want = {name: int(ask_nvmx(nvmx, trace, table, "SELECT COUNT(*) AS n FROM t")[0][0]) for name, trace in by_name.items()}
        check(f"{table}: rows by trace", got, {name: rows for name, rows in want.items() if rows})
    facts = f"read_parquet('{folders['parquet']}/traces/*/*.parquet', hive_partitioning=true)"
    for name, file, events, clock in database.execute(f"SELECT trace, file, events, clock FROM {facts}").fetchall():
        info = json.loads(run(nvmx, "info", "--json", by_name[str(name)]))
        check(f"{name}: facts", (file, events, clock), (pathlib.Path(by_name[str(name)]).name, info["events"], info["clock"]))
        if events <= BIG:
            check_capnp(database, folders["parquet"], by_name[str(name)], name, schema)
    print(f"{asked} answers and {len(names)} traces compared: {failures} differ")
    return 1 if failures or not asked else 0


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
