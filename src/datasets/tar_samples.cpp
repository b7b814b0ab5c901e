// SPDX-License-Identifier: Apache-2.0
#include "datasets/tar_samples.hpp"

#include <algorithm>
#include <array>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "datasets/dataset_builder.hpp"
#include "imaging/image.hpp"

namespace dino {
namespace {

/// A key has few dots; more than these are not tried.
constexpr size_t kMostDots = 8;
/// Images that share a sidecar (left.png, right.png and one json): beyond, the name is no common key, and of
/// a key that comes back and back the first ones have it.
constexpr size_t kMostShared = 16;

std::string_view clean_name(std::string_view name) {
  while (name.starts_with("./")) name.remove_prefix(2);
  return name;
}

size_t base_of(std::string_view name) {
  return name.rfind('/') == std::string_view::npos ? 0 : name.rfind('/') + 1;
}

/// Places of the dots that may end a key, the last first; a dot that begins the base name hides it.
std::vector<size_t> dots_of(std::string_view name) {
  std::vector<size_t> dots;
  const size_t base = base_of(name);
  for (size_t at = name.rfind('.'); at != std::string_view::npos && at > base && dots.size() < kMostDots;
       at = name.rfind('.', at - 1))
    dots.push_back(at);
  return dots;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

bool is_any(std::string_view word, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// Pictures that describe another one: a.seg.png beside a.jpg.
bool is_map(std::string_view role) {
  return is_any(role, {"seg", "mask", "depth"});
}

class Grouping {
 public:
  Grouping(const PosixFile& file, const std::vector<TarMember>& members) : file_(file), members_(members) {}

  TarSamples run() {
    std::vector<size_t> maps, others;
    for (size_t i = 0; i < members_.size(); ++i) sort_by_name(i, maps, others);
    index_images(0);
    for (const size_t i : maps)  // where nothing is described, it is a picture like any other
      if (!in_keys(before_dot(i, 1))) add_named_image(i);
    std::vector<size_t> untold;
    for (const size_t i : others)
      if (!beside_image(i)) untold.push_back(i);
    const size_t known = out_.images.size();
    for (const size_t i : untold) add_by_content(i);
    index_images(known);
    std::sort(out_.images.begin(), out_.images.end(),
              [](const TarImage& a, const TarImage& b) { return a.member < b.member; });
    index_all();
    std::vector<bool> is_image(members_.size(), false);
    for (const TarImage& image : out_.images) is_image[image.member] = true;
    maps.insert(maps.end(), others.begin(), others.end());
    std::erase_if(maps, [&](size_t i) { return is_image[i]; });
    std::sort(maps.begin(), maps.end());
    std::vector<size_t> left;
    for (const size_t i : maps)
      if (!attach_exact(i)) left.push_back(i);
    for (const size_t i : left)
      if (!attach_shared(i)) out_.orphans.push_back(i);
    const auto by_member = [](const TarSidecar& a, const TarSidecar& b) {
      return std::pair(a.member, a.image) < std::pair(b.member, b.image);
    };
    std::sort(out_.sidecars.begin(), out_.sidecars.end(), by_member);
    std::sort(out_.refused.begin(), out_.refused.end());
    return std::move(out_);
  }

 private:
  [[nodiscard]] std::string_view name(size_t i) const { return clean_name(members_[i].name); }

  /// The name up to its dot number `which` from the end; all of it where there are fewer.
  [[nodiscard]] std::string_view before_dot(size_t i, size_t which) const {
    const std::vector<size_t> dots = dots_of(name(i));
    return which < dots.size() ? name(i).substr(0, dots[which]) : name(i);
  }

  void sort_by_name(size_t i, std::vector<size_t>& maps, std::vector<size_t>& others) {
    if (is_desktop_file(name(i))) {
      out_.hidden.push_back(i);
      return;
    }
    const std::vector<size_t> dots = dots_of(name(i));
    const std::string last = dots.empty() ? "" : lower(name(i).substr(dots[0] + 1));
    if (!is_image_extension(last)) {
      others.push_back(i);
    } else if (dots.size() > 1 && is_map(lower(name(i).substr(dots[1] + 1, dots[0] - dots[1] - 1)))) {
      maps.push_back(i);
    } else {
      add_named_image(i);
    }
  }

  void add_named_image(size_t i) {
    const size_t dot = dots_of(name(i))[0];
    out_.images.push_back({i, std::string(name(i).substr(0, dot)), lower(name(i).substr(dot + 1)), true});
  }

  [[nodiscard]] bool in_keys(std::string_view key) const { return keys_.contains(std::string(key)); }

  void index_images(size_t from) {
    for (size_t i = from; i < out_.images.size(); ++i) keys_.insert(out_.images[i].key);
  }

  [[nodiscard]] bool beside_image(size_t i) const {
    for (const size_t dot : dots_of(name(i)))
      if (in_keys(name(i).substr(0, dot))) return true;
    return false;
  }

  /// Files without extension, or with one that says nothing of a picture.
  void add_by_content(size_t i) {
    std::array<uint8_t, 32> first{};
    const int64_t got =
        file_.read_some(members_[i].offset, first.data(), std::min<int64_t>(members_[i].size, first.size()));
    const std::string_view extension = image_extension_of({first.data(), static_cast<size_t>(got)});
    if (extension.empty()) return;
    out_.images.push_back(
        {i, std::string(name(i).substr(0, key_length(name(i)))), std::string(extension), false});
  }

  /// For attaching: every key, and every beginning of a key that ends at a dot.
  void index_all() {
    for (size_t i = 0; i < out_.images.size(); ++i) {
      const std::string& key = out_.images[i].key;
      if (!by_key_[key].empty()) out_.shared.push_back(out_.images[i].member);
      if (by_key_[key].size() < kMostShared) by_key_[key].push_back(i);
      for (const size_t dot : dots_of(key)) {
        auto& images = by_beginning_[key.substr(0, dot)];
        if (images.size() <= kMostShared) images.push_back(i);
      }
    }
  }

  bool attach_exact(size_t i) {
    for (const size_t dot : dots_of(name(i))) {
      const auto found = by_key_.find(std::string(name(i).substr(0, dot)));
      if (found == by_key_.end()) continue;
      attach(i, found->second, lower(name(i).substr(dot + 1)));
      return true;
    }
    return false;
  }

  /// left.png and right.png of one key, with one json: it describes both.
  bool attach_shared(size_t i) {
    for (const size_t dot : dots_of(name(i))) {
      const auto found = by_beginning_.find(std::string(name(i).substr(0, dot)));
      if (found == by_beginning_.end() || found->second.size() > kMostShared) continue;
      attach(i, found->second, lower(name(i).substr(dot + 1)));
      return true;
    }
    return false;
  }

  void attach(size_t i, const std::vector<size_t>& images, const std::string& extension) {
    bool used = false;
    if (members_[i].size <= kMaxSidecar && members_[i].name_bytes <= kMaxName)
      for (const size_t image : images) {
        const bool first = taken_.insert(std::to_string(image) + "." + extension).second;
        if (first) out_.sidecars.push_back({i, image, extension});
        used = used || first;
      }
    if (!used) out_.refused.push_back(i);
  }

  const PosixFile& file_;
  const std::vector<TarMember>& members_;
  TarSamples out_;
  std::unordered_set<std::string> keys_, taken_;
  std::unordered_map<std::string, std::vector<size_t>> by_key_, by_beginning_;
};

}  // namespace

bool is_desktop_file(std::string_view path) {
  const std::string_view base = path.substr(base_of(path));
  return base.starts_with("._") || is_any(base, {".DS_Store", "Thumbs.db", "desktop.ini", "ehthumbs.db"}) ||
         path.starts_with("__MACOSX/") || path.find("/__MACOSX/") != std::string_view::npos;
}

TarSamples group_members(const PosixFile& file, const std::vector<TarMember>& members) {
  return Grouping(file, members).run();
}

}  // namespace dino
