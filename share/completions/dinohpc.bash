# SPDX-License-Identifier: Apache-2.0
# bash completion for dino-curate, dino-pretrain, dino-eval and dino-jobs. The programs name their own commands,
# options and values (`--complete`), so this file need not know them.
_dinohpc() {
  local word=${COMP_WORDS[COMP_CWORD]} program=${COMP_WORDS[0]} before="" names=""
  COMPREPLY=()
  [ "$COMP_CWORD" -gt 1 ] && before=${COMP_WORDS[COMP_CWORD - 1]}
  # bash takes the '=' of --name=value for a word of its own.
  if [ "$word" = "=" ]; then
    word=""
  elif [ "$before" = "=" ]; then
    before=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  if [ "$COMP_CWORD" -eq 1 ]; then
    names=$("$program" --complete 2>/dev/null)
  elif [[ $word == -* ]]; then
    names=$("$program" --complete "${COMP_WORDS[1]}" 2>/dev/null)
  elif [[ $before == --* ]]; then
    names=$("$program" --complete "${COMP_WORDS[1]}" "$before" 2>/dev/null)
  fi
  [ -n "$names" ] && mapfile -t COMPREPLY < <(compgen -W "$names" -- "$word")
  # A recipe of one's own, or what has no names of its own: a file.
  if [ "${#COMPREPLY[@]}" -eq 0 ] && [[ $word != -* ]]; then
    mapfile -t COMPREPLY < <(compgen -f -- "$word")
    compopt -o filenames 2>/dev/null
  fi
}
complete -F _dinohpc dino-curate dino-pretrain dino-eval dino-jobs
