# shellcheck shell=bash
# Runs test commands and adds up what they report. Sourced after common.sh.

results_passed=0 results_failed=0 results_broken=()

# run_tests NAME COMMAND…: shows the command's output and counts its "test result:" lines. A command
# that fails with no failed test (it did not compile, it crashed) counts as one failure.
run_tests() {
    local name=$1 log status=0 passed failed
    shift
    say "$name"
    log=$(mktemp)
    "$@" 2>&1 </dev/null | tee "$log" || status=$?
    passed=$(sum_of passed "$log")
    failed=$(sum_of failed "$log")
    if ((status != 0 && failed == 0)); then
        results_broken+=("$name (exit status $status)")
        failed=1
    fi
    results_passed=$((results_passed + passed)) results_failed=$((results_failed + failed))
    sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" >>"$results_names"
    rm -f "$log"
}

# must NAME COMMAND…: something that tests depend on; its failure counts as a failed test.
must() {
    local name=$1 status=0
    shift
    "$@" </dev/null || status=$?
    ((status != 0)) || return 0
    results_broken+=("$name (exit status $status)")
    results_failed=$((results_failed + 1))
    return 1
}

# sum_of passed|failed LOG
sum_of() {
    grep -aE '^test result: ' "$2" | grep -aoE "[0-9]+ $1" |
        awk '{ sum += $1 } END { print sum + 0 }' || true
}

# print_results: the summary, its last line "N passed, N failed"; fails if anything did.
print_results() {
    local broken
    if [[ -s $results_names ]]; then
        printf '\nfailed tests:\n'
        sort -u "$results_names" | sed 's/^/    /'
    fi
    for broken in ${results_broken[@]+"${results_broken[@]}"}; do
        printf 'did not run to its end: %s\n' "$broken"
    done
    rm -f "$results_names"
    printf '\n%d passed, %d failed\n' "$results_passed" "$results_failed"
    ((results_failed == 0))
}

results_names=$(mktemp)
