// SPDX-License-Identifier: Apache-2.0
// GIF, HEIC, AVIF and JPEG 2000 through libvips: the first page or frame, upright, as 8-bit sRGB.
#include "imaging/decoders.hpp"

#if DINO_HAVE_VIPS
#include <vips/vips.h>

#include <cstring>
#include <mutex>

namespace dino::imaging {
namespace {

void drop_log_line(const gchar* /*domain*/, GLogLevelFlags /*level*/, const gchar* /*text*/,
                   gpointer /*data*/) {}

/// Once per process. One thread per decode (the caller runs many), and no cache of operations: every image is
/// seen once.
bool start_vips() {
  static std::once_flag once;
  static bool started = false;
  std::call_once(once, [] {
    for (const char* domain : {"VIPS", "GLib", "GLib-GObject"}) {
      g_log_set_handler(
          domain,
          static_cast<GLogLevelFlags>(G_LOG_LEVEL_WARNING | G_LOG_LEVEL_MESSAGE | G_LOG_LEVEL_INFO |
                                      G_LOG_LEVEL_DEBUG | G_LOG_LEVEL_CRITICAL),
          drop_log_line, nullptr);
    }
    started = vips_init("dinohpc") == 0;
    vips_concurrency_set(1);
    vips_cache_set_max(0);
  });
  return started;
}

/// Owns one reference of an image; `step` replaces it by the result of an operation.
class VipsHolder {
 public:
  explicit VipsHolder(VipsImage* image) : image_(image) {}
  ~VipsHolder() {
    if (image_ != nullptr) g_object_unref(image_);
  }
  VipsHolder(const VipsHolder&) = delete;
  VipsHolder& operator=(const VipsHolder&) = delete;
  [[nodiscard]] VipsImage* get() const { return image_; }
  /// `next` by reference: it is read after the operation that is the first argument has run.
  bool step(int result, VipsImage*& next) {
    if (result != 0 || next == nullptr) return false;
    g_object_unref(image_);
    image_ = next;
    return true;
  }

 private:
  VipsImage* image_;
};

void report(Decoded& out) {
  std::string text = vips_error_buffer();
  vips_error_clear();
  for (char& c : text) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  while (!text.empty() && text.back() == ' ') text.pop_back();
  if (text.size() > 200) text.resize(200);
  const auto says = [&](const char* words) { return text.find(words) != std::string::npos; };
  if (says("is not a known") || says("no known loader") || says("not in a known format")) {
    return fail(out, DecodeStatus::unsupported,
                "this libvips has no loader for " + out.format + "; install the libvips42 build with it");
  }
  if (says("out of memory") || says("emory allocation") || says("ot enough memory") ||
      says("creating thread"))
    return fail(out, DecodeStatus::memory, text);
  const bool truncated = says("truncat") || says("end of file") || says("end-of-file") || says("EOF") ||
                         says("Read error") || says("premature") || says("nexpected end");
  fail(out, truncated ? DecodeStatus::truncated : DecodeStatus::corrupt, text);
}

int stored_orientation(VipsImage* image) {
  int value = 1;
  if (vips_image_get_typeof(image, VIPS_META_ORIENTATION) == 0 ||
      vips_image_get_int(image, VIPS_META_ORIENTATION, &value) != 0) {
    return 1;
  }
  return value >= 1 && value <= 8 ? value : 1;
}

/// -> 8-bit sRGB with 3 or 4 bands.
bool to_srgb(VipsHolder& image) {
  VipsImage* next = nullptr;
  if (vips_image_get_interpretation(image.get()) != VIPS_INTERPRETATION_sRGB) {
    if (!image.step(vips_colourspace(image.get(), &next, VIPS_INTERPRETATION_sRGB, nullptr), next))
      return false;
  }
  next = nullptr;
  if (!image.step(vips_cast_uchar(image.get(), &next, nullptr), next)) return false;
  next = nullptr;
  const int bands = vips_image_get_bands(image.get());
  if (bands > 4) return image.step(vips_extract_band(image.get(), &next, 0, "n", 3, nullptr), next);
  if (bands < 3) {  // an sRGB image of one or two bands: repeat the gray one
    VipsImage* in = image.get();
    VipsImage* gray = nullptr;
    if (vips_extract_band(in, &gray, 0, nullptr) != 0) return false;
    VipsImage* parts[3] = {gray, gray, gray};
    const int result = vips_bandjoin(parts, &next, 3, nullptr);
    g_object_unref(gray);
    return image.step(result, next);
  }
  return true;
}

/// What a loader and libvips hold per pixel beside the picture, at most: whole frames of 4 bytes for GIF;
/// planes of up to 16 bits and their RGB for HEIC and AVIF, 32 bits a sample for the others; and libvips' own
/// copy.
double loader_bytes(const std::string& format) {
  if (format == "gif") return 12;
  return format == "jp2" ? 20 : 16;
}

}  // namespace

void decode_vips(Bytes bytes, const DecodeOptions& options, Decoded& out) {
  if (!start_vips()) return fail(out, DecodeStatus::unsupported, "libvips does not start");
  // libvips keeps one error text per process: decodes take turns, so that a message is of its own file.
  static std::mutex turn;
  const std::lock_guard<std::mutex> lock(turn);
  vips_error_clear();
  VipsHolder image(vips_image_new_from_buffer(bytes.data(), bytes.size(), "", "access",
                                              VIPS_ACCESS_SEQUENTIAL, "fail_on", VIPS_FAIL_ON_TRUNCATED,
                                              nullptr));
  if (image.get() == nullptr) return report(out);
  if (!accept_size(vips_image_get_width(image.get()), vips_image_get_height(image.get()), 4, options.limits,
                   out)) {
    return;
  }
  const int orientation = stored_orientation(image.get());
  const double held = loader_bytes(out.format) * static_cast<double>(out.file_width * out.file_height);
  if (!accept_memory(held, vips_image_hasalpha(image.get()) != 0 ? 4 : 3, orientation > 1, options, out))
    return;
  if (!to_srgb(image)) return report(out);
  size_t size = 0;
  void* memory = vips_image_write_to_memory(image.get(), &size);
  if (memory == nullptr) return report(out);
  out.image.width = vips_image_get_width(image.get());
  out.image.height = vips_image_get_height(image.get());
  out.image.channels = vips_image_get_bands(image.get());
  const auto* first = static_cast<const uint8_t*>(memory);
  out.image.pixels.assign(first, first + size);
  g_free(memory);
  finish(out, options, orientation);
}

}  // namespace dino::imaging

#else

namespace dino::imaging {
void decode_vips(Bytes /*bytes*/, const DecodeOptions& /*options*/, Decoded& out) {
  fail(out, DecodeStatus::unsupported,
       "this build reads no " + out.format + "; install libvips-dev and build again");
}
}  // namespace dino::imaging
#endif
