# All checks, as they must pass before anything lands. `just` without a word does this.
check: fmt clippy test

fmt:
    cargo fmt --all --check

# In the release profile, like everything else here, so that polars is built once.
clippy:
    cargo clippy --release --workspace --all-targets -- -D warnings

test:
    cargo test --release

# Every budget beside this machine's floor, or the parts that are named: `just bench nested --guest DIR`.
bench *words:
    cargo bench --bench budgets -- {{words}}

# Measures everything on a Linux guest (tests/guests/linux.sh DIR, kvm.sh DIR) and makes the README's figures of it.
figures guest:
    cargo build --release
    target/release/nvmx bench --guest {{guest}} --source . -o target/bench.json
    cargo run --release -p hv --example policies -- --json {{guest}}/vmlinuz {{guest}}/payload.img > target/policies.json
    cargo run --release --example figures -- target/bench.json target/policies.json

# The first thing a newcomer runs.
demo:
    cargo run --release -- demo
