// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <openssl/evp.h>
#include <xxhash.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "base/error.hpp"
#include "base/working.hpp"
#include "storage/files.hpp"
#include "storage/posix_file.hpp"
#include "storage/xxh3.hpp"

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace dino {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78u;  // Castagnoli, bit-reversed
constexpr int64_t kChunk = 1 << 20;

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1u) != 0 ? kPolynomial : 0u);
    table[i] = value;
  }
  return table;
}
constexpr auto kTable = make_table();

uint32_t update_by_table(uint32_t state, const unsigned char* p, size_t n) {
  for (size_t i = 0; i < n; ++i) state = kTable[(state ^ p[i]) & 0xffu] ^ (state >> 8);
  return state;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t update_by_sse42(uint32_t state, const unsigned char* p, size_t n) {
  uint64_t wide = state;
  for (; n >= 8; p += 8, n -= 8) {
    uint64_t word = 0;
    std::memcpy(&word, p, sizeof word);
    wide = _mm_crc32_u64(wide, word);
  }
  auto narrow = static_cast<uint32_t>(wide);
  for (; n > 0; ++p, --n) narrow = _mm_crc32_u8(narrow, *p);
  return narrow;
}
#endif

using Update = uint32_t (*)(uint32_t, const unsigned char*, size_t);
Update choose_update() {
#if defined(__x86_64__)
  const char* lowered = std::getenv("DINO_CPU");
  if (__builtin_cpu_supports("sse4.2") && (lowered == nullptr || std::strcmp(lowered, "baseline") != 0))
    return update_by_sse42;
#endif
  return update_by_table;
}

/// Product of two polynomials over GF(2) modulo the CRC's, bit-reversed: the highest bit is x^0.
uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) product ^= b;
    b = (b >> 1) ^ ((b & 1u) != 0 ? kPolynomial : 0u);
  }
  return product;
}

struct FreeDigest {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new()) {
    DINO_CHECK(context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1,
               "OpenSSL has no SHA-256");
  }
  void update(const void* data, size_t size) {
    DINO_CHECK(EVP_DigestUpdate(context_.get(), data, size) == 1, "SHA-256");
  }
  std::string hex() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned int size = 0;
    DINO_CHECK(EVP_DigestFinal_ex(context_.get(), digest.data(), &size) == 1, "SHA-256");
    std::string text;
    for (unsigned int i = 0; i < size; ++i) text += fmt::format("{:02x}", digest[i]);
    return text;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, FreeDigest> context_;
};

/// Feeds a whole file to `use` in chunks.
template <class Use>
void for_each_chunk(const std::string& path, const Use& use) {
  const PosixFile file(path);
  std::vector<std::byte> buffer(static_cast<size_t>(kChunk));
  for (int64_t offset = 0;;) {
    const int64_t got = file.read_some(offset, buffer.data(), kChunk);
    use(std::span<const std::byte>(buffer.data(), static_cast<size_t>(got)));
    offset += got;
    still_working();
    if (got < kChunk) return;
  }
}

}  // namespace

uint32_t crc32c(std::span<const std::byte> bytes, uint32_t previous) {
  static const Update update = choose_update();
  return ~update(~previous, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
}

uint32_t crc32c_portable(std::span<const std::byte> bytes, uint32_t previous) {
  return ~update_by_table(~previous, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
}

uint32_t crc32c_file(const std::string& path) {
  uint32_t crc = 0;
  for_each_chunk(path, [&](std::span<const std::byte> chunk) { crc = crc32c(chunk, crc); });
  return crc;
}

uint32_t crc32c_combine(uint32_t first, uint32_t second, int64_t second_bytes) {
  // crc(AB) = crc(A) x^(8 |B|) + crc(B); the initial and final inversions cancel.
  uint32_t power = 0x80000000u >> 8;  // x^8
  uint32_t shift = 0x80000000u;       // x^0
  for (auto n = static_cast<uint64_t>(second_bytes); n != 0; n >>= 1) {
    if ((n & 1u) != 0) shift = multiply(shift, power);
    power = multiply(power, power);
  }
  return multiply(shift, first) ^ second;
}

std::string sha256_hex(std::span<const std::byte> bytes) {
  Sha256 digest;
  digest.update(bytes.data(), bytes.size());
  return digest.hex();
}

std::string sha256_file(const std::string& path) {
  Sha256 digest;
  for_each_chunk(path, [&](std::span<const std::byte> chunk) { digest.update(chunk.data(), chunk.size()); });
  return digest.hex();
}

uint64_t xxh3(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

Xxh3::Xxh3() : state_(XXH3_createState()) {
  if (state_ == nullptr) throw std::bad_alloc();
  XXH3_64bits_reset(static_cast<XXH3_state_t*>(state_));
}

Xxh3::~Xxh3() {
  XXH3_freeState(static_cast<XXH3_state_t*>(state_));
}

void Xxh3::update(std::span<const std::byte> bytes) {
  XXH3_64bits_update(static_cast<XXH3_state_t*>(state_), bytes.data(), bytes.size());
}

uint64_t Xxh3::value() const {
  return XXH3_64bits_digest(static_cast<const XXH3_state_t*>(state_));
}

std::string hex32(uint32_t value) {
  return fmt::format("{:08x}", value);
}

}  // namespace dino
