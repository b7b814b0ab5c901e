# SPDX-License-Identifier: Apache-2.0
# bash completion for dino-curate, dino-pretrain, dino-eval and dino-jobs. The programs name their own commands
# and options (`--complete`), so this file need not know them.
_dinohpc() {
  local word=${COMP_WORDS[COMP_CWORD]} program=${COMP_WORDS[0]} names
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    names=$("$program" --complete 2>/dev/null)
  elif [[ $word == -* ]]; then
    names=$("$program" --complete "${COMP_WORDS[1]}" 2>/dev/null)
  else
    mapfile -t COMPREPLY < <(compgen -f -- "$word")
    compopt -o filenames 2>/dev/null
    return
  fi
  mapfile -t COMPREPLY < <(compgen -W "$names" -- "$word")
}
complete -F _dinohpc dino-curate dino-pretrain dino-eval dino-jobs
