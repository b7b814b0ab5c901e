// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "comm/program.hpp"

namespace dino::curation {

Command run_command();
Command ingest_command();
Command embed_command();
Command decontaminate_command();
Command export_command();
Command report_command();
Command explain_command();
Command lint_command();
Command list_command();

}  // namespace dino::curation
