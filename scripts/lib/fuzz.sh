# shellcheck shell=bash
# Fuzz targets: cargo-fuzz's layout, built here without it, since all that is needed of it are the
# compiler's options for coverage.

# The packages with targets, each a workspace of its own.
fuzz_packages() {
    printf '%s\n' guest-agent/protocol guest-agent/client vmm/devices vmm/fs shim/sandbox
}

# Coverage of edges and comparisons, and every check that a release leaves out.
FUZZ_FLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebuginfo=line-tables-only \
-Cdebug-assertions -Coverflow-checks --cfg=fuzzing --check-cfg=cfg(fuzzing)"

# What one input may take: more is a finding.
fuzz_memory_mib=1024 fuzz_seconds_of_one=20

# fuzz_targets PACKAGE: their names.
fuzz_targets() {
    local file
    for file in "$RINGFENCE_CHECKOUT/$1"/fuzz/fuzz_targets/*.rs; do
        basename "$file" .rs
    done
}

# build_fuzz_targets PACKAGE
build_fuzz_targets() {
    # With --target build scripts and macros are built without instrumentation.
    CARGO_TARGET_DIR=$RINGFENCE_CHECKOUT/target/fuzz RUSTFLAGS=$FUZZ_FLAGS \
        cargo build --release --locked --bins --target x86_64-unknown-linux-gnu \
        --manifest-path "$RINGFENCE_CHECKOUT/$1/fuzz/Cargo.toml"
}

# check_fuzz_targets: whether all of them can be compiled, without doing so: the instrumentation and
# libFuzzer itself, for which a place is named where it would be, are left out. What the lints have
# compiled serves here too.
check_fuzz_targets() {
    local package status=0
    while read -r package; do
        CARGO_TARGET_DIR=$RINGFENCE_CHECKOUT/target \
            CUSTOM_LIBFUZZER_PATH=/nonexistent/libFuzzer.a \
            cargo check --quiet --locked --bins \
            --manifest-path "$RINGFENCE_CHECKOUT/$package/fuzz/Cargo.toml" || status=1
    done < <(fuzz_packages)
    return "$status"
}

# run_fuzz_target PACKAGE TARGET SECONDS: what it has found before is where it goes on. Whatever breaks
# it is kept, and its last lines are shown.
run_fuzz_target() {
    local package=$1 target=$2 seconds=$3
    local binary=$RINGFENCE_CHECKOUT/target/fuzz/x86_64-unknown-linux-gnu/release/$target
    local home=$RINGFENCE_CHECKOUT/$package/fuzz log status=0
    local corpus=$home/corpus/$target found=$home/artifacts/$target
    mkdir -p "$corpus" "$found"
    log=$(mktemp)
    # A target that does not end by itself, as libFuzzer promises, is ended.
    timeout --kill-after=10 $((seconds + 120)) "$binary" "$corpus" -max_total_time="$seconds" \
        -rss_limit_mb="$fuzz_memory_mib" -timeout="$fuzz_seconds_of_one" -max_len=65536 \
        -artifact_prefix="$found/" -print_final_stats=1 >"$log" 2>&1 || status=$?
    if ((status == 0)); then
        local runs
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        echo "$package $target: ok, $runs inputs in $seconds s"
    else
        tail -n 40 "$log"
        echo "$package $target: FAILED with status $status; the input is in $found"
    fi
    rm -f "$log"
    return "$status"
}
