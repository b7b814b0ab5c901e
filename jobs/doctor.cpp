// SPDX-License-Identifier: Apache-2.0
// What this machine has for a chain, and whether it works. Programs meet in what they write: GPUs are looked
// at by `dino-pretrain devices --json`.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/names.hpp"
#include "base/text.hpp"
#include "base/timing.hpp"
#include "base/version.hpp"
#include "chain.hpp"
#include "commands.hpp"
#include "shell.hpp"

namespace dino {
namespace {

/// A GPU that wakes up, and matrix products on every one.
constexpr double kDevicesSeconds = 300;
constexpr double kToolSeconds = 30;
/// Ranks that are started to see whether they meet: one for each GPU, within these.
constexpr size_t kFewestRanks = 2, kMostRanks = 16;

enum class Health : uint8_t { ok, absent, failed };
constexpr auto names_of(Health) {
  return std::to_array<Named<Health>>(
      {{"ok", Health::ok}, {"absent", Health::absent}, {"failed", Health::failed}});
}

struct Finding {
  std::string what;
  Health health = Health::ok;
  std::string detail;
};

std::string first_line(const std::string& text) {
  return trim(text.substr(0, text.find('\n')));
}

/// The last line of what a tool said, or how it ended.
std::string complaint_of(const ShellResult& result, double seconds) {
  if (result.code == 124) return fmt::format("no answer within {} s", seconds);
  const std::string said = trim(result.err);
  if (said.empty()) return fmt::format("exit code {}", result.code);
  const size_t end = said.rfind('\n');
  return end == std::string::npos ? said : said.substr(end + 1);
}

Finding look_at_tool(const std::string& what, const std::vector<std::string>& words,
                     const std::string& missing) {
  const ShellResult result = run_tool(words, kToolSeconds);
  if (result.code == 127) return {what, Health::absent, missing};
  if (result.code != 0) return {what, Health::failed, complaint_of(result, kToolSeconds)};
  return {what, Health::ok, first_line(result.out.empty() ? result.err : result.out)};
}

/// Beside this program, or in PATH; all of one version.
Finding look_at_program(const std::string& program) {
  const std::string path = program_path(program);
  Finding found = look_at_tool(program, {path, "--version"}, "not beside dino-jobs, and not in PATH");
  if (found.health == Health::absent) found.health = Health::failed;
  if (found.health == Health::ok && found.detail.find(version()) == std::string::npos)
    found = {
        program, Health::failed,
        fmt::format("{} is \"{}\", dino-jobs is {}: install them together", path, found.detail, version())};
  return found;
}

/// What `dino-pretrain devices --json` wrote, behind a launcher or alone; and how that went.
struct Devices {
  Finding finding;
  nlohmann::json json;
};
Devices ask_devices(const std::string& what, std::vector<std::string> words) {
  for (const char* word : {"devices", "--json"}) words.emplace_back(word);
  const ShellResult result = run_tool(words, kDevicesSeconds);
  Devices devices{{what, Health::ok, ""}, nlohmann::json::parse(result.out, nullptr, false)};
  if (result.code == 127)
    devices.finding = {what, Health::absent, words.front() + ": not found"};
  else if (result.code != 0)
    devices.finding = {what, Health::failed, complaint_of(result, kDevicesSeconds)};
  else if (!devices.json.is_object())
    devices.finding = {what, Health::failed, "its answer is no JSON object"};
  if (!devices.json.is_object()) devices.json = nlohmann::json::object();
  return devices;
}

void add_gpus(const Devices& devices, std::vector<Finding>& findings) {
  const nlohmann::json none = nlohmann::json::array();
  const nlohmann::json& gpus = devices.json.contains("gpus") ? devices.json["gpus"] : none;
  for (const nlohmann::json& gpu : gpus) {
    const std::string fault = gpu.value("fault", "");
    findings.push_back(
        {fmt::format("GPU {}", gpu.value("index", -1)), fault.empty() ? Health::ok : Health::failed,
         fault.empty() ? fmt::format("{}, compute capability {}, {}, {}; {:.1f} TFLOP/s in bf16, and right",
                                     gpu.value("name", ""), gpu.value("capability", ""),
                                     human_bytes(gpu.value("memory_bytes", int64_t{0})),
                                     gpu.value("versions", ""), gpu.value("gemm_gflops", 0.0) * 1e-3)
                       : fault});
  }
  if (!gpus.empty())
    findings.push_back({"GPU libraries", Health::ok, devices.json.value("libraries", "")});
  else if (devices.finding.health == Health::ok)
    findings.push_back({"GPU", Health::absent, devices.json.value("why_no_gpu", "")});
  else
    findings.push_back(devices.finding);
}

/// Whether ranks that mpirun starts meet; with a GPU each, whether these do.
Finding look_at_ranks(size_t gpus) {
  const size_t ranks = std::clamp(gpus, kFewestRanks, kMostRanks);
  std::vector<std::string> words{"mpirun"};
  if (::geteuid() == 0) words.emplace_back("--allow-run-as-root");
  for (const std::string& word :
       {std::string("--oversubscribe"), std::string("--bind-to"), std::string("none"), std::string("-n"),
        std::to_string(ranks), program_path("dino-pretrain")})
    words.push_back(word);
  const std::string what = fmt::format("{} ranks of mpirun", ranks);
  Devices devices = ask_devices(what, words);
  if (devices.finding.health != Health::ok) return devices.finding;
  devices.finding.detail = "they start and meet";
  if (devices.json.contains("collective"))
    devices.finding.detail += fmt::format(
        "; sums over their GPUs are right, each receives {}/s",
        human_bytes(static_cast<int64_t>(devices.json["collective"].value("bytes_per_second", 0.0))));
  return devices.finding;
}

std::vector<Finding> look_around() {
  std::vector<Finding> findings;
  for (const char* program : {"dino-curate", "dino-pretrain", "dino-eval"})
    findings.push_back(look_at_program(program));
  const Devices devices = ask_devices("GPUs", {program_path("dino-pretrain")});
  add_gpus(devices, findings);
  const Finding mpi =
      look_at_tool("MPI", {"mpirun", "--version"}, "no mpirun: `local` and several ranks need one");
  findings.push_back(mpi);
  if (mpi.health == Health::ok)
    findings.push_back(look_at_ranks(devices.json.contains("gpus") ? devices.json["gpus"].size() : 0));
  findings.push_back(look_at_tool("Slurm", {"sbatch", "--version"}, "no sbatch: `submit` needs one"));
  return findings;
}

struct DoctorConfig {};

ExitCode doctor(const DoctorConfig&, CommandContext& context) {
  if (context.common.dry_run) return ExitCode::done;
  const std::vector<Finding> findings = look_around();
  nlohmann::ordered_json json{{"command", "doctor"}, {"version", version()}};
  json["checks"] = nlohmann::ordered_json::array();
  std::string first;
  int64_t failed = 0;
  for (const Finding& f : findings) {
    json["checks"].push_back({{"what", f.what}, {"health", name_of(f.health)}, {"detail", f.detail}});
    if (!context.common.json) fmt::print("{:<7} {:<18} {}\n", name_of(f.health), f.what, f.detail);
    if (f.health != Health::failed) continue;
    ++failed;
    if (first.empty()) first = f.what + ": " + f.detail;
  }
  json["failed"] = failed;
  context.result = json_line(json);
  if (failed > 0)
    throw InternalError(
        fmt::format("{} of {} checks failed: {}; see the lines above", failed, findings.size(), first));
  return ExitCode::done;
}

}  // namespace

Command doctor_command() {
  Command command;
  command.name = "doctor";
  command.summary = "look at what this machine has for a chain, and whether it works";
  command.usage = "[--json]";
  command.description =
      "Looks for the other programs, of the same version; starts ranks with mpirun and sees whether they "
      "meet; "
      "looks for Slurm; and has dino-pretrain look at every GPU: driver, memory, matrix products whose "
      "results "
      "are known, their rate, and a sum over all GPUs where there are several. A line each: ok, absent (a "
      "chain "
      "may do without), failed. Run it on a node as the jobs get it (srun -N1 dino-jobs doctor). Exit code "
      "70 "
      "where anything failed.";
  command.uses_mpi = false;
  command.examples = {{"--json"}};
  command.make = with_options(Schema<DoctorConfig>{}, doctor);
  return command;
}

}  // namespace dino
