#!/usr/bin/env bash
# What every program says about its options is true: help of 80 columns, -h, examples that parse, settings that
# come back from --print-config, completions, man pages.
. "$DINO_SOURCE/tests/cli/lib.sh"

check() { local what=$1; shift; if "$@"; then ok "$what"; else fail "$what"; fi; }

# The examples of a help text, one a line, without the launcher.
examples_of() {
  sed -n '/^Examples:/,$p' | sed -e ':a' -e '/\\$/{N;s/ *\\\n */ /;ba' -e '}' |
    sed -n -e 's/^  mpirun -n 4 //' -e 's/^  //' -e '/^dino-/p'
}
too_wide() { awk -v what="$1" 'length($0) > 80 { print what ": " $0 }'; }

wide=""
for program in dino-curate dino-pretrain dino-eval dino-jobs; do
  $program --help >program.txt
  check "$program -h" cmp -s <($program -h) program.txt
  wide+=$(too_wide "$program" <program.txt)
  for command in $($program --complete | grep -v "^--"); do
    name="$program $command"
    $program "$command" --help >help.txt
    check "$name -h" cmp -s <($program "$command" -h) help.txt
    wide+=$(too_wide "$name" <help.txt)
    examples_of <help.txt >examples.txt
    [ -s examples.txt ] || fail "$name has no example"
    while IFS= read -r line; do
      # Parsed, and given back: what is printed reads as the same settings.
      if ! eval "$line --print-config" >first.cfg 2>err.txt; then
        fail "the example does not parse: $line"
        cat err.txt
      elif ! $program "$command" --config first.cfg --print-config >second.cfg 2>err.txt; then
        fail "its settings do not read back: $line"
        cat err.txt
      else
        cmp first.cfg second.cfg || fail "its settings come back as others: $line"
      fi
    done <examples.txt
    grep -q . <($program --complete "$command") || fail "$name completes to nothing"
  done
  $program --man >page.1
  for section in NAME SYNOPSIS COMMANDS "COMMON OPTIONS" "EXIT STATUS" ENVIRONMENT FILES EXAMPLES "SEE ALSO"; do
    grep -q "^\.SH $section$" page.1 || fail "$program --man has no $section"
  done
  if command -v groff >/dev/null; then
    groff -man -Tutf8 -wall -z page.1 2>groff.txt
    check "$program: a man page without faults" test ! -s groff.txt
  fi
done
[ -z "$wide" ] || { fail "help beyond 80 columns:"; echo "$wide"; }

# What is required says so, in help and when it is missing.
check "required options are marked" grep -q "(required)" <(dino-pretrain train --help)
dino-eval knn --test x.h5 --output r 2>err.txt
check "a missing option is a mistake of the command line" test $? = 64
check "and is named" grep -q -- "--train (command line): is missing; give --train TEXT" err.txt

# Completions: values of enums, presets, recipes; files where there is nothing better.
complete_has() { grep -qx "$2" <(eval "$1") || fail "$1 does not offer $2"; }
complete_has "dino-curate --complete dedup --rule" components
complete_has "dino-pretrain --complete bench --preset" vits14
complete_has "dino-pretrain --complete train --config" tiny
complete_has "dino-curate --complete dedup --progress" plain
check "a path completes to files" test -z "$(dino-curate --complete dedup --embeddings)"
(
  compopt() { :; }
  . "$DINO_SOURCE/share/completions/dinohpc.bash"
  offers() {
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    _dinohpc
    echo "${COMPREPLY[*]}"
  }
  [ "$(offers dino-curate dedup --rule comp)" = components ] && [ "$(offers dino-curate dedup --rule = st)" = star ] &&
    [ "$(offers dino-curate ded)" = dedup ] && [ "$(offers dino-curate dedup --thresh)" = --threshold ]
) || fail "bash completes otherwise"

# A key of a recipe that stands twice is refused with both lines.
printf 'k = 5\n[more]\nk = 10\n' >twice.cfg
dino-eval knn --config twice.cfg --train a.h5 --test b.h5 --output r --print-config >twice.txt 2>err.txt
check "a list may stand in several lines" grep -q "^k = 5,10$" twice.txt
printf 'threshold = 0.5\n\nthreshold = 0.6\n' >twice.cfg
dino-curate dedup --config twice.cfg --embeddings e.npy --output r 2>err.txt
check "a key that stands twice is refused" test $? = 64
check "with both lines" grep -q "threshold (twice.cfg:3): stands before in twice.cfg:1" err.txt
finish
