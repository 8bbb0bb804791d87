#include <initializer_list>

#include "client/cli/command.h"
#include "client/cli/commands/commands.h"

namespace bitrung::cli {
namespace {

const OptionSpec kServer{.name = "--server",
                         .value = "ADDRESS",
                         .help = "server to use, unix:PATH or HOST:PORT (or BITRUNG_SERVER)"};
const OptionSpec kLogin{
    .name = "--login",
    .value = "FILE",
    .help =
        "login file of mode 0600 for a server over TCP (or BITRUNG_LOGIN; default: the one "
        "saved by \"bitrung login\")",
    .completes = Completes::kFile};
const OptionSpec kStateDir{
    .name = "--state-dir",
    .value = "DIR",
    .help = "state directory to use when no server is named (default .bitrung)",
    .completes = Completes::kDirectory};
const OptionSpec kOutput{.name = "--output",
                         .value = "FORM",
                         .help = "text, tsv or json (default: text on a terminal, tsv on a pipe)",
                         .letter = 'o',
                         .choices = {"text", "tsv", "json"}};
const OptionSpec kSet{
    .name = "--set",
    .value = "KEY=VALUE",
    .help = "overrides a value of the file, e.g. defaults.epochs=1; may be repeated",
    .repeated = true};
const OptionSpec kDataDir{
    .name = "--data-dir",
    .value = "DIR",
    .help = "where the data sets lie (or BITRUNG_DATA_DIR; default ~/.cache/bitrung)",
    .completes = Completes::kDirectory};
const OptionSpec kQuiet{
    .name = "--quiet", .value = "", .help = "no progress; errors and results only", .letter = 'q'};
const OptionSpec kForce{.name = "--force", .value = "", .help = "overwrites a file that is there"};
const OptionSpec kExperiment{
    .name = "--experiment",
    .value = "EXPERIMENT",
    .help = "experiment of jobs that are given by name alone (default: the newest)",
    .letter = 'e'};

const PositionalSpec kFile{
    .name = "FILE", .help = "experiment file (YAML)", .completes = Completes::kFile};
const PositionalSpec kMaybeExperiment{.name = "EXPERIMENT",
                                      .help =
                                          "number or name; a name means the newest experiment of "
                                          "that name; default: the newest of all",
                                      .required = false};
const PositionalSpec kJobs{
    .name = "JOB",
    .help = "EXPERIMENT/JOB, or EXPERIMENT JOB, or JOB alone for the newest experiment",
    .repeated = true};

// Options of a command followed by those of the connection, which most commands share.
std::vector<OptionSpec> with_connection(std::initializer_list<OptionSpec> options) {
  std::vector<OptionSpec> all(options);
  all.insert(all.end(), {kServer, kLogin, kStateDir});
  return all;
}

std::vector<CommandSpec> make_table() {
  return {
      {.name = "run",
       .summary = "runs an experiment file here and shows the results",
       .positionals = {kFile},
       .options =
           with_connection({kSet,
                            kDataDir,
                            {.name = "--slots",
                             .value = "N",
                             .help = "jobs at a time, which divide the cores (default: one per "
                                     "GPU; without one as many as wait, at most one per core)"},
                            kOutput,
                            kQuiet}),
       .examples =
           {{"bitrung run bit-ladder.yaml", "everything lands in .bitrung"},
            {"bitrung run bit-ladder.yaml --set defaults.epochs=1 --set defaults.dataset=synthetic",
             "a quick try"},
            {"bitrung run bit-ladder.yaml", "again after Ctrl-C: continues where it stopped"}},
       .function = run_command},
      {.name = "plan",
       .summary = "shows what an experiment file would do; runs and creates nothing",
       .positionals = {kFile},
       .options = with_connection({kSet, kOutput}),
       .examples = {{"bitrung plan bit-ladder.yaml", "jobs, edges, what is merged or cached, cost"},
                    {"bitrung plan bit-ladder.yaml --set replicate.seed='[1, 2, 3]'", ""}},
       .function = plan_command},
      {.name = "options",
       .summary = "every option of an experiment file, with its default and what is allowed",
       .positionals = {},
       .options = {},
       .examples = {{"bitrung options", ""}},
       .function = options_command},
      {.name = "submit",
       .summary = "hands an experiment file to a server and returns",
       .positionals = {kFile},
       .options = with_connection({kSet, kOutput}),
       .examples = {{"bitrung submit bit-ladder.yaml", "to the server of \"bitrung login\""},
                    {"bitrung submit bit-ladder.yaml --server unix:/srv/bitrung/server.sock", ""}},
       .function = submit_command},
      {.name = "list",
       .summary = "experiments, newest first",
       .positionals = {{.name = "NAME",
                        .help = "only experiments of this name",
                        .required = false}},
       .options = with_connection(
           {{.name = "--limit", .value = "N", .help = "at most N (default 20, 0 for all)"},
            kOutput}),
       .examples = {{"bitrung list", ""}, {"bitrung list --limit 0 --output json", ""}},
       .function = list_command},
      {.name = "status",
       .summary = "the jobs of an experiment and where each stands",
       .positionals = {kMaybeExperiment},
       .options = with_connection({kOutput}),
       .examples = {{"bitrung status", "of the newest experiment"},
                    {"bitrung status bit-ladder", ""}},
       .function = status_command},
      {.name = "watch",
       .summary = "shows an experiment's progress until it ends",
       .positionals = {kMaybeExperiment},
       .options = with_connection({kOutput}),
       .examples = {{"bitrung watch", "the newest experiment"},
                    {"bitrung watch 3 --output json", "one object per change"}},
       .function = watch_command},
      {.name = "wait",
       .summary = "waits silently until an experiment ends; exit code 6 if a job failed",
       .positionals = {kMaybeExperiment},
       .options = with_connection({kOutput}),
       .examples = {{"bitrung wait bit-ladder && bitrung results bit-ladder", ""}},
       .function = wait_command},
      {.name = "results",
       .summary = "the table of accuracies, with spread and confidence over seeds",
       .positionals = {kMaybeExperiment},
       .options = with_connection(
           {{.name = "--group-by",
             .value = "OPTION[,OPTION...]",
             .help = "makes a line per value of these options, e.g. bits.weights or "
                     "distill.temperature (default: model, data set, method, bits and what else "
                     "differs within an entry; seeds are always joined)",
             .repeated = true},
            {.name = "--metric",
             .value = "METRIC",
             .help = "what is compared: top1 (the default), top5, nll, brier, ece on the test set, "
                     "or validation, the accuracy on held-out images",
             .choices = {"top1", "top5", "nll", "brier", "ece", "validation"}},
            kOutput}),
       .examples = {{"bitrung results", "of the newest experiment"},
                    {"bitrung results bit-ladder --group-by distill.temperature,bits", ""},
                    {"bitrung results bit-ladder --metric ece", "are few bits less sure of it?"},
                    {"bitrung results bit-ladder --output json",
                     "every job with its numbers, every value of each seed"}},
       .function = results_command},
      {.name = "compare",
       .summary = "what differs between two jobs, entries or experiments",
       .positionals = {{.name = "A",
                        .help = "EXPERIMENT/JOB; EXPERIMENT/ENTRY or a job without its seed for "
                                "all seeds; EXPERIMENT for all its jobs"},
                       {.name = "B", .help = "the same; B minus A is shown"}},
       .options = with_connection({kExperiment, kOutput}),
       .examples = {{"bitrung compare 3/alone.bits=4 3/assisted.bits=4",
                     "options, numbers, classes, layers, over all seeds"},
                    {"bitrung compare 3/alone 3/assisted", "at every bitwidth"},
                    {"bitrung compare 3 4", "an experiment and its repetition with other options"}},
       .function = compare_command},
      {.name = "inspect",
       .summary = "what quantization did to a trained network, layer by layer",
       .positionals = {kJobs},
       .options = with_connection(
           {{.name = "--layer",
             .value = "PATTERN",
             .help = "only layers of this name; * stands for any text, e.g. 'layer3.*'"},
            {.name = "--activations", .value = "", .help = "also what enters each layer"},
            {.name = "--confusion",
             .value = "",
             .help = "also accuracy by class, and which class is taken for which"},
            kExperiment,
            kOutput}),
       .examples = {{"bitrung inspect 3/assisted.bits=4", "bits, levels, ranges, noise, cost"},
                    {"bitrung inspect 3/assisted.bits=4 --layer 'layer3.*' --activations", ""},
                    {"bitrung inspect 3/assisted.bits=4 --output json", "the whole report"}},
       .function = inspect_command},
      {.name = "logs",
       .summary = "what a job's trainer printed",
       .positionals = {kJobs},
       .options = with_connection(
           {{.name = "--follow", .value = "", .help = "goes on until the job ends", .letter = 'f'},
            {.name = "--attempt", .value = "N", .help = "only this attempt, counted from 1"},
            {.name = "--tail", .value = "N", .help = "only the last N lines"},
            kExperiment,
            kOutput}),
       .examples = {{"bitrung logs 3/alone.bits=4 --follow", ""},
                    {"bitrung logs alone.bits=4 --tail 20", ""}},
       .function = logs_command},
      {.name = "metrics",
       .summary = "the series of one or more jobs",
       .positionals = {kJobs},
       .options = with_connection(
           {{.name = "--name",
             .value = "SERIES",
             .help = "e.g. train_loss; may be repeated",
             .repeated = true},
            {.name = "--buckets", .value = "N", .help = "at most N points per series, 1 to 10000"},
            kExperiment,
            kOutput}),
       .examples = {{"bitrung metrics 3/alone.bits=4", "last, min and max of each series"},
                    {"bitrung metrics 3/alone.bits=4 --name train_loss --output tsv",
                     "the points"}},
       .function = metrics_command},
      {.name = "explain",
       .summary = "why a job is where it is",
       .positionals = {kJobs},
       .options = with_connection({kExperiment, kOutput}),
       .examples = {{"bitrung explain 3/assisted.bits=4", ""}},
       .function = explain_command},
      {.name = "cancel",
       .summary = "stops an experiment, or jobs and what depends on them",
       .positionals =
           {{.name = "EXPERIMENT", .help = "number or name, or EXPERIMENT/JOB"},
            {.name = "JOB", .help = "only these jobs", .required = false, .repeated = true}},
       .options = with_connection({kOutput}),
       .examples = {{"bitrung cancel 3", "everything"},
                    {"bitrung cancel 3/alone.bits=4", "one job"}},
       .function = cancel_command},
      {.name = "retry",
       .summary = "tries failed, cancelled and skipped jobs again",
       .positionals =
           {{.name = "EXPERIMENT", .help = "number or name, or EXPERIMENT/JOB"},
            {.name = "JOB", .help = "only these jobs", .required = false, .repeated = true}},
       .options = with_connection({kOutput}),
       .examples = {{"bitrung retry 3", "all that can be retried"},
                    {"bitrung retry 3/alone.bits=4", ""}},
       .function = retry_command},
      {.name = "export",
       .summary = "writes a job's network for another program",
       .positionals = {{.name = "JOB",
                        .help =
                            "EXPERIMENT/JOB, or JOB alone for the newest experiment, or the file "
                            "of a checkpoint",
                        .completes = Completes::kFile}},
       .options = with_connection(
           {{.name = "--format",
             .value = "FORMAT",
             .help =
                 "safetensors: the checkpoint as it is (default); pt: a state dict for PyTorch's "
                 "torch.load; packed: integer codes of the quantized weights with their scales",
             .choices = {"safetensors", "pt", "packed"}},
            {.name = "--out",
             .value = "FILE",
             .help = "where to write it (default: named after the job, in this folder)",
             .completes = Completes::kFile},
            kForce,
            kExperiment,
            kOutput}),
       .examples = {{"bitrung export bit-ladder/assisted.bits=4 --format pt",
                     "then in Python: net.load_state_dict(torch.load(FILE, weights_only=True))"},
                    {"bitrung export alone.bits=2 --format packed --out alone2.packed.safetensors",
                     "2 bits per weight; client/interop/PACKED.md says how to read it"}},
       .function = export_command},
      {.name = "import",
       .summary = "makes a teacher of a PyTorch state dict; runs nothing that is in the file",
       .positionals = {{.name = "FILE",
                        .help =
                            "file of torch.save or safetensors; a state dict inside a training's "
                            "checkpoint is found",
                        .completes = Completes::kFile}},
       .options = {{.name = "--model",
                    .value = "MODEL",
                    .help =
                        "network that it must fit, e.g. resnet20 (default: the one that it fits)"},
                   {.name = "--out",
                    .value = "FILE",
                    .help = "where to write it (default: FILE with the ending .safetensors)",
                    .completes = Completes::kFile},
                   kForce,
                   kOutput},
       .examples = {{"bitrung import resnet20.pt --model resnet20",
                     "names, shapes and types are checked, every difference is listed"},
                    {"bitrung import checkpoint.pth",
                     "{'epoch': …, 'model_state_dict': …} as training scripts write it"}},
       .function = import_command},
      {.name = "workers",
       .summary = "workers, their slots and what they do",
       .positionals = {},
       .options = with_connection({kOutput}),
       .examples = {{"bitrung workers", ""}},
       .function = workers_command},
      {.name = "drain",
       .summary = "gives a worker no new jobs",
       .positionals = {{.name = "WORKER", .help = "name or id, as \"bitrung workers\" shows it"}},
       .options = with_connection(
           {{.name = "--off", .value = "", .help = "gives it jobs again"}, kOutput}),
       .examples = {{"bitrung drain a7", ""}, {"bitrung drain a7 --off", ""}},
       .function = drain_command},
      {.name = "login",
       .summary = "saves a login for a server, or shows whose it is",
       .positionals = {{.name = "FILE",
                        .help =
                            "file that \"bitrung-server init\" or \"bitrung token create\" wrote",
                        .required = false,
                        .completes = Completes::kFile}},
       .options = {kServer,
                   {.name = "--forget", .value = "", .help = "removes the saved login"},
                   kOutput},
       .examples = {{"bitrung login anna.login", "commands then use that server by themselves"},
                    {"bitrung login", "where and as whom"},
                    {"bitrung login anna.login --server 127.0.0.1:7420", "through a tunnel"}},
       .function = login_command},
      {.name = "token",
       .summary = "makes, lists and revokes the tokens of people (admins only)",
       .positionals = {{.name = "ACTION",
                        .help = "create makes one, list shows them, revoke ends one at once",
                        .choices = {"create", "list", "revoke"}},
                       {.name = "NAME",
                        .help = "of who will have it; for revoke the ID of the token",
                        .required = false}},
       .options = with_connection(
           {{.name = "--role",
             .value = "ROLE",
             .help = "viewer reads; submitter also submits, and cancels its own experiments "
                     "(default); operator also those of others, and handles workers; admin also "
                     "makes tokens",
             .choices = {"viewer", "submitter", "operator", "admin"}},
            {.name = "--days", .value = "N", .help = "valid so long, 1 to 366 (default 90)"},
            {.name = "--out",
             .value = "FILE",
             .help = "where to write it, mode 0600 (default NAME.login)",
             .completes = Completes::kFile},
            kOutput}),
       .examples = {{"bitrung token create anna", "writes anna.login, for \"bitrung login\""},
                    {"bitrung token create ci --role viewer --days 30", ""},
                    {"bitrung token list", ""},
                    {"bitrung token revoke 9f86d081884c7d65", "by its ID"}},
       .function = token_command},
      {.name = "enrol",
       .summary = "lets a worker in, once, or ends its access (operators only)",
       .positionals = {{.name = "WORKER", .help = "name of the worker"}},
       .options = with_connection(
           {{.name = "--out",
             .value = "FILE",
             .help = "where to write the enrolment, mode 0600 (default WORKER.enrolment)",
             .completes = Completes::kFile},
            {.name = "--revoke", .value = "", .help = "ends the worker's certificates at once"},
            kOutput}),
       .examples = {{"bitrung enrol gpu1",
                     "then there: bitrung-worker enrol gpu1.enrolment "
                     "--state-dir DIR"},
                    {"bitrung enrol gpu1 --revoke", ""}},
       .function = enrol_command},
      {.name = "audit",
       .summary = "who changed what on the server, newest first (admins only)",
       .positionals = {},
       .options = with_connection(
           {{.name = "--limit", .value = "N", .help = "at most N (default 50, 0 for all)"},
            kOutput}),
       .examples = {{"bitrung audit", ""},
                    {"bitrung audit --limit 0 --output json > audit.json", "all of it"}},
       .function = audit_command},
      {.name = "data",
       .summary = "fetches and checks data sets",
       .positionals = {{.name = "ACTION",
                        .help =
                            "fetch downloads one, list shows what is there, check reads the files",
                        .choices = {"fetch", "list", "check"}},
                       {.name = "DATASET",
                        .help = "for fetch and check",
                        .required = false,
                        .choices = {"cifar10", "cifar100"}}},
       .options = {kDataDir,
                   {.name = "--url",
                    .value = "URL",
                    .help = "another place to fetch the official archive from"},
                   {.name = "--md5",
                    .value = "HEX",
                    .help = "checksum of the archive there, if it is a repacked one"},
                   kOutput,
                   kQuiet},
       .examples = {{"bitrung data fetch cifar10",
                     "170 MB from www.cs.toronto.edu, resumed if interrupted"},
                    {"bitrung data list --data-dir /data", ""}},
       .function = data_command},
      {.name = "version",
       .summary = "version of the command line, and of the server if one is named",
       .positionals = {},
       .options = {kServer, kLogin, kOutput},
       .examples = {{"bitrung version", ""}},
       .function = version_command},
      {.name = "completion",
       .summary = "prints a completion script for a shell",
       .positionals = {{.name = "SHELL", .help = "", .choices = {"bash", "zsh", "fish"}}},
       .options = {},
       .examples = {{"source <(bitrung completion bash)", "for this shell"},
                    {"bitrung completion fish > ~/.config/fish/completions/bitrung.fish", ""}},
       .function = completion_command},
  };
}

}  // namespace

std::span<const CommandSpec> command_table() {
  static const std::vector<CommandSpec> table = make_table();
  return table;
}

}  // namespace bitrung::cli
