# Completion of bitrung for bash.
_bitrung() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= i
  local options= words= values= files=
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; ++i)); do
    if [[ ${COMP_WORDS[i]} != -* ]]; then command=${COMP_WORDS[i]}; break; fi
  done
  if [[ -z $command ]]; then
    COMPREPLY=($(compgen -W 'run plan options submit list status watch wait results compare inspect logs metrics explain cancel retry export import workers drain login token enrol audit data version completion --help --version' -- "$word"))
    return
  fi
  case $command in
    run) options='--help --set --data-dir --slots --output --quiet --server --login --state-dir' words='' files='-f' ;;
    plan) options='--help --set --output --server --login --state-dir' words='' files='-f' ;;
    options) options='--help' words='' files='' ;;
    submit) options='--help --set --output --server --login --state-dir' words='' files='-f' ;;
    list) options='--help --limit --output --server --login --state-dir' words='' files='' ;;
    status) options='--help --output --server --login --state-dir' words='' files='' ;;
    watch) options='--help --output --server --login --state-dir' words='' files='' ;;
    wait) options='--help --output --server --login --state-dir' words='' files='' ;;
    results) options='--help --group-by --metric --output --server --login --state-dir' words='' files='' ;;
    compare) options='--help --experiment --output --server --login --state-dir' words='' files='' ;;
    inspect) options='--help --layer --activations --confusion --experiment --output --server --login --state-dir' words='' files='' ;;
    logs) options='--help --follow --attempt --tail --experiment --output --server --login --state-dir' words='' files='' ;;
    metrics) options='--help --name --buckets --experiment --output --server --login --state-dir' words='' files='' ;;
    explain) options='--help --experiment --output --server --login --state-dir' words='' files='' ;;
    cancel) options='--help --output --server --login --state-dir' words='' files='' ;;
    retry) options='--help --output --server --login --state-dir' words='' files='' ;;
    export) options='--help --format --out --force --experiment --output --server --login --state-dir' words='' files='-f' ;;
    import) options='--help --model --out --force --output' words='' files='-f' ;;
    workers) options='--help --output --server --login --state-dir' words='' files='' ;;
    drain) options='--help --off --output --server --login --state-dir' words='' files='' ;;
    login) options='--help --server --forget --output' words='' files='-f' ;;
    token) options='--help --role --days --out --output --server --login --state-dir' words='create list revoke' files='' ;;
    enrol) options='--help --out --revoke --output --server --login --state-dir' words='' files='' ;;
    audit) options='--help --limit --output --server --login --state-dir' words='' files='' ;;
    data) options='--help --data-dir --url --md5 --output --quiet' words='fetch list check cifar10 cifar100' files='' ;;
    version) options='--help --server --login --output' words='' files='' ;;
    completion) options='--help' words='bash zsh fish' files='' ;;
  esac
  case $before in
    --set) return ;;
    --data-dir) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$word")); return ;;
    --slots) return ;;
    --output|-o) COMPREPLY=($(compgen -W 'text tsv json' -- "$word")); return ;;
    --server) return ;;
    --login) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$word")); return ;;
    --state-dir) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$word")); return ;;
    --limit) return ;;
    --group-by) return ;;
    --metric) COMPREPLY=($(compgen -W 'top1 top5 nll brier ece validation' -- "$word")); return ;;
    --experiment|-e) return ;;
    --layer) return ;;
    --attempt) return ;;
    --tail) return ;;
    --name) return ;;
    --buckets) return ;;
    --format) COMPREPLY=($(compgen -W 'safetensors pt packed' -- "$word")); return ;;
    --out) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$word")); return ;;
    --model) return ;;
    --role) COMPREPLY=($(compgen -W 'viewer submitter operator admin' -- "$word")); return ;;
    --days) return ;;
    --url) return ;;
    --md5) return ;;
  esac
  if [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$word"))
  elif [[ -n $files ]]; then
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -f -- "$word"))
  else
    COMPREPLY=($(compgen -W "$words" -- "$word"))
  fi
}
complete -F _bitrung bitrung
