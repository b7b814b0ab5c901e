// SPDX-License-Identifier: Apache-2.0
#pragma once
// The page's style sheet and its only script. Kept as text in the program, so that a report never depends on
// an installed file.

namespace dino::report {

[[nodiscard]] const char* style_sheet();
/// Makes table headers sort by mouse and keyboard, and opens what is folded for printers of browsers that
/// cannot be told so by the style sheet; without it tables stay as they were written.
[[nodiscard]] const char* page_script();

}  // namespace dino::report
