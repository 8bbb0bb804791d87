#compdef bitrung
# Completion of bitrung for zsh.
_bitrung() {
  local -a commands
  commands=(
    'run:runs an experiment file here and shows the results'
    'plan:shows what an experiment file would do; runs and creates nothing'
    'options:every option of an experiment file, with its default and what is allowed'
    'submit:hands an experiment file to a server and returns'
    'list:experiments, newest first'
    'status:the jobs of an experiment and where each stands'
    'watch:shows an experiment'\''s progress until it ends'
    'wait:waits silently until an experiment ends; exit code 6 if a job failed'
    'results:the table of accuracies, with spread and confidence over seeds'
    'compare:what differs between two jobs, entries or experiments'
    'inspect:what quantization did to a trained network, layer by layer'
    'logs:what a job'\''s trainer printed'
    'metrics:the series of one or more jobs'
    'explain:why a job is where it is'
    'cancel:stops an experiment, or jobs and what depends on them'
    'retry:tries failed, cancelled and skipped jobs again'
    'export:writes a job'\''s network for another program'
    'import:makes a teacher of a PyTorch state dict; runs nothing that is in the file'
    'workers:workers, their slots and what they do'
    'drain:gives a worker no new jobs'
    'login:saves a login for a server, or shows whose it is'
    'token:makes, lists and revokes the tokens of people (admins only)'
    'enrol:lets a worker in, once, or ends its access (operators only)'
    'audit:who changed what on the server, newest first (admins only)'
    'data:fetches and checks data sets'
    'version:version of the command line, and of the server if one is named'
    'completion:prints a completion script for a shell'
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
    run)
      _arguments \
        '*--set[overrides a value of the file, e.g. defaults.epochs=1; may be repeated]:KEY=VALUE: ' \
        '--data-dir[where the data sets lie (or BITRUNG_DATA_DIR; default ~/.cache/bitrung)]:DIR:_files -/' \
        '--slots[jobs at a time, which divide the cores (default\: one per GPU; without one as many as wait, at most one per core)]:N: ' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--quiet[no progress; errors and results only]' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        ':FILE:_files' \
        '--help[this text]' ;;
    plan)
      _arguments \
        '*--set[overrides a value of the file, e.g. defaults.epochs=1; may be repeated]:KEY=VALUE: ' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        ':FILE:_files' \
        '--help[this text]' ;;
    options)
      _arguments \
        '--help[this text]' ;;
    submit)
      _arguments \
        '*--set[overrides a value of the file, e.g. defaults.epochs=1; may be repeated]:KEY=VALUE: ' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        ':FILE:_files' \
        '--help[this text]' ;;
    list)
      _arguments \
        '--limit[at most N (default 20, 0 for all)]:N: ' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        '::NAME: ' \
        '--help[this text]' ;;
    status)
      _arguments \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        '::EXPERIMENT: ' \
        '--help[this text]' ;;
    watch)
      _arguments \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        '::EXPERIMENT: ' \
        '--help[this text]' ;;
    wait)
      _arguments \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        '::EXPERIMENT: ' \
        '--help[this text]' ;;
    results)
      _arguments \
        '*--group-by[makes a line per value of these options, e.g. bits.weights or distill.temperature (default\: model, data set, method, bits and what else differs within an entry; seeds are always joined)]:OPTION[,OPTION...]: ' \
        '--metric[what is compared\: top1 (the default), top5, nll, brier, ece on the test set, or validation, the accuracy on held-out images]:METRIC:(top1 top5 nll brier ece validation)' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        '::EXPERIMENT: ' \
        '--help[this text]' ;;
    compare)
      _arguments \
        '--experiment[experiment of jobs that are given by name alone (default\: the newest)]:EXPERIMENT: ' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        ':A: ' \
        ':B: ' \
        '--help[this text]' ;;
    inspect)
      _arguments \
        '--layer[only layers of this name; * stands for any text, e.g. '\''layer3.*'\'']:PATTERN: ' \
        '--activations[also what enters each layer]' \
        '--confusion[also accuracy by class, and which class is taken for which]' \
        '--experiment[experiment of jobs that are given by name alone (default\: the newest)]:EXPERIMENT: ' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        '*:JOB: ' \
        '--help[this text]' ;;
    logs)
      _arguments \
        '--follow[goes on until the job ends]' \
        '--attempt[only this attempt, counted from 1]:N: ' \
        '--tail[only the last N lines]:N: ' \
        '--experiment[experiment of jobs that are given by name alone (default\: the newest)]:EXPERIMENT: ' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        '*:JOB: ' \
        '--help[this text]' ;;
    metrics)
      _arguments \
        '*--name[e.g. train_loss; may be repeated]:SERIES: ' \
        '--buckets[at most N points per series, 1 to 10000]:N: ' \
        '--experiment[experiment of jobs that are given by name alone (default\: the newest)]:EXPERIMENT: ' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        '*:JOB: ' \
        '--help[this text]' ;;
    explain)
      _arguments \
        '--experiment[experiment of jobs that are given by name alone (default\: the newest)]:EXPERIMENT: ' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        '*:JOB: ' \
        '--help[this text]' ;;
    cancel)
      _arguments \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        ':EXPERIMENT: ' \
        '*:JOB: ' \
        '--help[this text]' ;;
    retry)
      _arguments \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        ':EXPERIMENT: ' \
        '*:JOB: ' \
        '--help[this text]' ;;
    export)
      _arguments \
        '--format[safetensors\: the checkpoint as it is (default); pt\: a state dict for PyTorch'\''s torch.load; packed\: integer codes of the quantized weights with their scales]:FORMAT:(safetensors pt packed)' \
        '--out[where to write it (default\: named after the job, in this folder)]:FILE:_files' \
        '--force[overwrites a file that is there]' \
        '--experiment[experiment of jobs that are given by name alone (default\: the newest)]:EXPERIMENT: ' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        ':JOB:_files' \
        '--help[this text]' ;;
    import)
      _arguments \
        '--model[network that it must fit, e.g. resnet20 (default\: the one that it fits)]:MODEL: ' \
        '--out[where to write it (default\: FILE with the ending .safetensors)]:FILE:_files' \
        '--force[overwrites a file that is there]' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        ':FILE:_files' \
        '--help[this text]' ;;
    workers)
      _arguments \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        '--help[this text]' ;;
    drain)
      _arguments \
        '--off[gives it jobs again]' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        ':WORKER: ' \
        '--help[this text]' ;;
    login)
      _arguments \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--forget[removes the saved login]' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '::FILE:_files' \
        '--help[this text]' ;;
    token)
      _arguments \
        '--role[viewer reads; submitter also submits, and cancels its own experiments (default); operator also those of others, and handles workers; admin also makes tokens]:ROLE:(viewer submitter operator admin)' \
        '--days[valid so long, 1 to 366 (default 90)]:N: ' \
        '--out[where to write it, mode 0600 (default NAME.login)]:FILE:_files' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        ':ACTION:(create list revoke)' \
        '::NAME: ' \
        '--help[this text]' ;;
    enrol)
      _arguments \
        '--out[where to write the enrolment, mode 0600 (default WORKER.enrolment)]:FILE:_files' \
        '--revoke[ends the worker'\''s certificates at once]' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        ':WORKER: ' \
        '--help[this text]' ;;
    audit)
      _arguments \
        '--limit[at most N (default 50, 0 for all)]:N: ' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--state-dir[state directory to use when no server is named (default .bitrung)]:DIR:_files -/' \
        '--help[this text]' ;;
    data)
      _arguments \
        '--data-dir[where the data sets lie (or BITRUNG_DATA_DIR; default ~/.cache/bitrung)]:DIR:_files -/' \
        '--url[another place to fetch the official archive from]:URL: ' \
        '--md5[checksum of the archive there, if it is a repacked one]:HEX: ' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--quiet[no progress; errors and results only]' \
        ':ACTION:(fetch list check)' \
        '::DATASET:(cifar10 cifar100)' \
        '--help[this text]' ;;
    version)
      _arguments \
        '--server[server to use, unix\:PATH or HOST\:PORT (or BITRUNG_SERVER)]:ADDRESS: ' \
        '--login[login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default\: the one saved by "bitrung login")]:FILE:_files' \
        '--output[text, tsv or json (default\: text on a terminal, tsv on a pipe)]:FORM:(text tsv json)' \
        '--help[this text]' ;;
    completion)
      _arguments \
        ':SHELL:(bash zsh fish)' \
        '--help[this text]' ;;
  esac
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _bitrung "$@"; else compdef _bitrung bitrung; fi
