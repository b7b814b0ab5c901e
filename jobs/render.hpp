// SPDX-License-Identifier: Apache-2.0
#pragma once
// From a chain to sbatch scripts that can be read, and run by hand.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chain.hpp"

namespace dino {

/// Replaces every @NAME@; a name without a value, or a value without its name in the text, is an
/// InternalError: template and program do not belong together.
[[nodiscard]] std::string fill_template(std::string_view text,
                                        const std::vector<std::pair<std::string, std::string>>& values);

/// What sbatch, squeue and sacct call the stage's job. It tells the stages of all run folders apart, so that
/// a job that chain.json does not know is found by its name.
[[nodiscard]] std::string job_name(const Chain& chain, const Stage& stage);

/// UsageError when bash could not read the stage's set-up, arguments or command, or what they make of
/// `script`: names the stage, the key and bash's words.
void check_shell(const Chain& chain, const Stage& stage, const std::string& script);

/// MissingInputError when the stage names a container that is not there.
void check_container(const Stage& stage);

/// The part of a stage's script that is the same under Slurm and on this machine, from slurm/run.bash.in.
[[nodiscard]] std::string render_runner(const Chain& chain, const Stage& stage, const std::string& launcher);

/// The sbatch script of one stage, from slurm/stage.sbatch.in. `script` is the path it will have.
[[nodiscard]] std::string render_stage(const Chain& chain, const Stage& stage, const std::string& script);

/// sbatch's words for it; `dependencies` are job ids (or shell variables that hold them).
[[nodiscard]] std::vector<std::string> sbatch_words(const std::string& script,
                                                    const std::vector<std::string>& dependencies);
/// A shell script that submits the rendered chain as `submit` does.
[[nodiscard]] std::string render_submit_script(const Chain& chain);
/// The folder with stage.sbatch.in and chain.cfg: of the installation, or of the source tree.
[[nodiscard]] std::string template_folder();

}  // namespace dino
