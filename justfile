# All checks, as they must pass before anything lands. `just` without a word does this.
check: fmt clippy test

fmt:
    cargo fmt --all --check

# In the release profile, like everything else here, so that polars is built once.
clippy:
    cargo clippy --release --workspace --all-targets -- -D warnings

test:
    cargo test --release

# What recording costs, as a ratio.
bench:
    cargo bench --bench record

# Linux here, on Bochs and on QEMU, as rates and ratios.
bench-linux:
    cargo bench --bench linux

# Exits from L2 to L1 and back, here and on Bochs, as rates and ratios.
bench-nested:
    cargo bench --bench nested

# The first thing a newcomer runs.
demo:
    cargo run --release -- demo

# The trace format's budgets, beside this machine's floor.
bench-trace:
    cargo bench --bench trace
