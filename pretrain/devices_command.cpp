// SPDX-License-Identifier: Apache-2.0
// What a training would compute on here, and whether it computes right.
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <vector>

#include "base/cpu.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/timing.hpp"
#include "comm/together.hpp"
#include "commands.hpp"
#include "ops/accelerator.hpp"
#include "ops/context.hpp"
#include "ops/device_option.hpp"
#include "ops/gemm_rate.hpp"
#include "ops/product_check.hpp"
#include "step_estimate.hpp"

namespace dino::pretrain {
namespace {

struct DevicesConfig {};

nlohmann::ordered_json examine(int index) {
  const ops::GpuFacts facts = ops::gpu_facts(index);
  nlohmann::ordered_json json{{"index", index},
                              {"name", facts.name},
                              {"capability", facts.capability},
                              {"versions", facts.versions},
                              {"memory_bytes", facts.memory_bytes},
                              {"gemm_gflops", 0.0},
                              {"fault", ""}};
  try {
    const std::unique_ptr<ops::Backend> backend = ops::new_gpu_backend(index);
    json["fault"] = ops::fault_of_products(*backend);
    json["gemm_gflops"] = ops::gemm_rate(*backend, Precision::bf16, 512, 3);
  } catch (const Error& error) {
    json["fault"] = error.what();
  }
  return json;
}

/// A sum over the ranks' GPUs, and the rate at which they gather. Collective.
nlohmann::ordered_json examine_collective(const Communicator& comm) {
  DeviceChoice device = Device::Kind::cuda;
  Workplace place(settle_device(device, comm), comm, Precision::f32);
  Context& c = place.context();
  constexpr int64_t kCount = 1000;
  Tensor host(Shape{kCount}), values = Tensor::uninitialised(Shape{kCount}, DType::f32, c.ops.memory());
  for (int64_t i = 0; i < kCount; ++i)
    host.as<float>()[i] = static_cast<float>((i % 7 + 1) * (comm.rank() + 1));
  copy(c.stream, values, host);
  c.stream.wait(c.collective.all_reduce(c.stream, values));
  copy(c.stream, host, values);
  c.stream.synchronize();
  const int64_t ranks = comm.size();
  bool is_right = true;
  for (int64_t i = 0; i < kCount; ++i)
    is_right = is_right && host.as<float>()[i] == static_cast<float>((i % 7 + 1) * ranks * (ranks + 1) / 2);
  const bool wrong = comm.any(!is_right);
  return {{"ranks", ranks},
          {"bytes_per_second", gather_rate(device, comm)},
          {"fault", wrong ? "a sum over the ranks is wrong" : ""}};
}

void print(const nlohmann::ordered_json& json) {
  fmt::print("CPU: {} kernels\n", json["cpu"].get<std::string>());
  if (json["gpus"].empty()) fmt::print("no GPU: {}\n", json["why_no_gpu"].get<std::string>());
  for (const auto& gpu : json["gpus"]) {
    const auto fault = gpu["fault"].get<std::string>();
    fmt::print("GPU {}: {}, compute capability {}, {}, {}; {:.1f} TFLOP/s in bf16; {}\n",
               gpu["index"].get<int>(), gpu["name"].get<std::string>(), gpu["capability"].get<std::string>(),
               human_bytes(gpu["memory_bytes"].get<int64_t>()), gpu["versions"].get<std::string>(),
               gpu["gemm_gflops"].get<double>() * 1e-3, fault.empty() ? "products are right" : fault);
  }
  if (json.contains("collective")) {
    const auto& together = json["collective"];
    const auto fault = together["fault"].get<std::string>();
    fmt::print("{} ranks: {} received by each; {}\n", together["ranks"].get<int64_t>(),
               human_bytes(std::llround(together["bytes_per_second"].get<double>())) + "/s",
               fault.empty() ? "sums are right" : fault);
  }
}

/// Alone: all GPUs that the process sees; of several ranks each its own.
ExitCode devices(const DevicesConfig&, CommandContext& context) {
  const Communicator& world = context.world;
  nlohmann::ordered_json json{{"command", "devices"}, {"cpu", cpu_level_name(cpu_level())}};
  json["gpus"] = nlohmann::ordered_json::array();
  const int count = ops::gpu_count();
  json["why_no_gpu"] = ops::why_no_gpu();
  json["libraries"] = ops::describe_gpu_libraries();
  if (context.common.dry_run) {
    context.result = json_line(json);
    return ExitCode::done;
  }
  if (world.size() == 1) {
    for (int index = 0; index < count; ++index) json["gpus"].push_back(examine(index));
  } else {
    const std::string own = count == 0 ? "" : json_line(examine(rank_on_node(world) % count));
    for (const std::string& line : world.all_gather_strings(own))
      if (!line.empty()) json["gpus"].push_back(nlohmann::ordered_json::parse(line));
    if (!world.any(count == 0)) json["collective"] = examine_collective(world);
  }
  std::string fault;
  for (const auto& gpu : json["gpus"])
    if (const auto said = gpu["fault"].get<std::string>(); fault.empty() && !said.empty())
      fault = fmt::format("GPU {}: {}", gpu["index"].get<int>(), said);
  if (json.contains("collective") && fault.empty()) fault = json["collective"]["fault"].get<std::string>();
  context.result = json_line(json);
  if (world.root() && !context.common.json) print(json);
  if (!fault.empty())
    throw InternalError(
        fmt::format("a device computes wrongly: {}; look at dmesg and nvidia-smi, and leave it out of "
                    "CUDA_VISIBLE_DEVICES",
                    fault));
  return ExitCode::done;
}

}  // namespace

Command devices_command() {
  Command command;
  command.name = "devices";
  command.summary = "what there is to compute on, and whether it computes right";
  command.usage = "[--json]";
  command.description =
      "Names the kernels of the CPU and every GPU that the process sees, with its memory, driver and the "
      "rate "
      "of large matrix products, after products whose results are known exactly were right in each "
      "precision. "
      "Started on several ranks, each looks at its own GPU, and a sum and a gather over all of them are "
      "checked and timed. What is wrong ends it with 70; a machine without a GPU is not.";
  command.uses_mpi = launched_ranks() > 1;
  command.examples = {{"--json"}};
  command.make = with_options(Schema<DevicesConfig>{}, devices);
  return command;
}

}  // namespace dino::pretrain
