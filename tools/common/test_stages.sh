# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Runs tests and adds up what they say. Sourced after shell.sh.

passed=0
failed=0

count() { passed=$((passed + $1)); failed=$((failed + $2)); }
# Something that is no test went wrong, such as a build.
count_failure() { say "FAILED: $*"; count 0 1; }
summary() { say "$passed passed, $failed failed"; }

junit_attribute() { grep -o "\\b$2=\"[0-9]*\"" "$1" | head -1 | grep -o '[0-9]*'; }

# run_unit_tests BUILD-DIRECTORY [CTEST-OPTION...]
run_unit_tests() {
  local directory=$1 junit total bad skipped
  shift
  junit=$(mktemp)
  ctest --test-dir "$directory" --output-junit "$junit" --output-on-failure \
    --timeout 600 -j "$(nproc)" "$@" >"$directory/ctest.log" 2>&1 || true
  total=$(junit_attribute "$junit" tests)
  bad=$(junit_attribute "$junit" failures)
  skipped=$(($(junit_attribute "$junit" skipped || echo 0) + \
             $(junit_attribute "$junit" disabled || echo 0)))
  rm -f "$junit"
  if [ -z "$total" ] || [ "$total" -eq 0 ]; then
    tail -20 "$directory/ctest.log"
    count_failure "no unit test ran in $directory"
    return
  fi
  count $((total - bad - skipped)) "$bad"
  say "unit tests: $((total - bad - skipped)) passed, $bad failed, $skipped skipped"
  [ "$bad" -eq 0 ] || grep -vE '^ *[0-9]+/[0-9]+ Test .* Passed|^ *Start ' "$directory/ctest.log" |
    tail -150
}

# run_crash_simulator BUILD-DIRECTORY: a sample of all it can do, its figures shown.
run_crash_simulator() {
  local log=$1/logs/crashsim.log code=0
  mkdir -p "$1/logs"
  timeout -k 10 600 "$1/bin/pbfs-crashsim" --smoke -q >"$log" 2>&1 || code=$?
  cat "$log"
  if [ "$code" -eq 0 ]; then
    count 1 0
  else
    count_failure "pbfs-crashsim --smoke: exit code $code"
  fi
}

# run_scripts BUILD-DIRECTORY SCRIPT...: each exits 0 (passed), 77 (cannot run here) or else failed.
# One that ends with a line 'N passed, N failed' counts as that many tests.
run_scripts() {
  local directory=$1 script name log code last seconds=600
  [ -z "${PBFS_LONG:-}" ] || seconds=3600
  shift
  mkdir -p "$directory/logs"
  for script in "$@"; do
    [ -x "$script" ] || continue
    name=${script##*/}
    log=$directory/logs/$name.log
    code=0
    PBFS_BUILD=$directory timeout -k 10 "$seconds" "$script" >"$log" 2>&1 </dev/null || code=$?
    last=$(tail -1 "$log" | grep -xE '[0-9]+ passed, [0-9]+ failed' || true)
    if [ "$code" -eq 77 ]; then
      say "$name: skipped: $(tail -1 "$log")"
    elif [ -n "$last" ] && { [ "$code" -eq 0 ] || [ "$(cut -d' ' -f3 <<<"$last")" -gt 0 ]; }; then
      say "$name: $last"
      count "$(cut -d' ' -f1 <<<"$last")" "$(cut -d' ' -f3 <<<"$last")"
    elif [ "$code" -eq 0 ]; then
      say "$name: passed"
      count 1 0
    else
      say "$name: FAILED with exit code $code; the end of $log:"
      tail -40 "$log"
      count 0 1
    fi
  done
}
