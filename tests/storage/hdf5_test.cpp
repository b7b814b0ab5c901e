// SPDX-License-Identifier: Apache-2.0
#include "storage/hdf5.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

#include "storage/scratch.hpp"

namespace dino {
namespace {

using testing::expect_error;
using testing::Scratch;

Tensor ramp(Shape shape, DType dtype = DType::f32) {
  Tensor tensor(shape, dtype);
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    if (dtype == DType::f32) tensor.as<float>()[i] = static_cast<float>(i) / 8;
    if (dtype == DType::i64) tensor.as<int64_t>()[i] = i - 3;
    if (dtype == DType::u8) tensor.as<uint8_t>()[i] = static_cast<uint8_t>(i);
    if (dtype == DType::bf16) tensor.as<bf16>()[i] = bf16(static_cast<float>(i) * 1.1F);
    if (dtype == DType::f16) tensor.as<f16>()[i] = f16(static_cast<float>(i) * 1.1F);
  }
  return tensor;
}

void write_sample(const std::string& path) {
  Hdf5File file = Hdf5File::create(path);
  file.write("/model/x", ramp(Shape{4, 3}).view());
  file.write("/model/deep/y", ramp(Shape{2, 2}, DType::bf16).view());
  file.write("/model/deep/z", ramp(Shape{4}, DType::f16).view());
  file.write("/n", ramp(Shape{5}, DType::i64).view());
  file.write("/scalar", ramp(Shape{}).view());
  file.write("/empty", ramp(Shape{0, 3}).view());
  file.write_strings("/keys", {"a", "", "longer \xc3\xa9"});
  file.write_attribute("/", "classes", std::vector<std::string>{"cat", "dog"});
  file.write_attribute("/model/x", "note", std::string("text"));
  file.write_attribute("/model/x", "rate", 0.25);
  file.write_attribute("/model/x", "count", int64_t{7});
  file.write_attribute("/model/x", "count", int64_t{8});
  file.write_attribute("/", "none", std::vector<std::string>{});
  const std::vector<int64_t> shape = {1, 2, 3};
  file.write_attribute("/model", "shape", std::span<const int64_t>(shape));
  file.close();
}

/// h5py makes the files that our writer cannot; false when there is no h5py.
bool python(const std::string& script) {
  const char* interpreter = std::getenv("DINO_PYTHON");
  if (interpreter == nullptr ||
      std::system((std::string(interpreter) + " -c 'import h5py' 2>/dev/null").c_str()) != 0)
    return false;
  EXPECT_EQ(
      std::system((std::string(interpreter) + " -c \"import h5py, numpy as np\n" + script + "\"").c_str()),
      0);
  return true;
}

TEST(Hdf5, RoundTripsEveryKind) {
  const Scratch scratch;
  write_sample(scratch / "a.h5");
  const Hdf5File file = Hdf5File::open(scratch / "a.h5");
  const Tensor x = file.read("/model/x");
  EXPECT_EQ(x.shape(), (Shape{4, 3}));
  EXPECT_EQ(x.dtype(), DType::f32);
  EXPECT_EQ(x.f32()[11], 11.0F / 8);
  const Tensor y = file.read("/model/deep/y");
  EXPECT_EQ(y.dtype(), DType::bf16);
  EXPECT_EQ(y.as<bf16>()[3].bits, bf16(3.3F).bits);
  EXPECT_EQ(file.read("/model/deep/y", DType::f32).f32()[3], static_cast<float>(bf16(3.3F)));
  EXPECT_EQ(file.read("/model/deep/z", DType::f32).f32()[3], static_cast<float>(f16(3.3F)));
  EXPECT_EQ(file.read("/n").as<int64_t>()[0], -3);
  EXPECT_EQ(file.read("/n", DType::i32).as<int32_t>()[4], 1);
  EXPECT_EQ(file.read("/scalar").shape().rank(), 0);
  EXPECT_EQ(file.read("/empty").shape(), (Shape{0, 3}));
  EXPECT_EQ(file.read_strings("/keys"), (std::vector<std::string>{"a", "", "longer \xc3\xa9"}));
  EXPECT_EQ(file.read_strings("/keys", 1, 2), (std::vector<std::string>{"", "longer \xc3\xa9"}));
  EXPECT_TRUE(file.read_strings("/keys", 3, 0).empty());
  EXPECT_THROW((void)file.read_strings("/keys", 2, 2), DataError);
  EXPECT_THROW((void)file.read_strings("/n", 0, 1), DataError);
  EXPECT_TRUE(file.info("/keys").is_string);
  EXPECT_EQ(file.attribute_strings("/", "classes"), (std::vector<std::string>{"cat", "dog"}));
  EXPECT_TRUE(file.attribute_strings("/", "none").empty());
  EXPECT_EQ(file.attribute_string("/model/x", "note"), "text");
  EXPECT_EQ(file.attribute_number("/model/x", "rate"), 0.25);
  EXPECT_EQ(file.attribute_number("/model/x", "count"), 8);
  EXPECT_EQ(file.attribute_numbers("/model", "shape"), (std::vector<double>{1, 2, 3}));
  EXPECT_EQ(file.attributes("/model/x"), (std::vector<std::string>{"count", "note", "rate"}));
  EXPECT_TRUE(file.has_attribute("/", "classes"));
  EXPECT_FALSE(file.has_attribute("/", "other"));
  EXPECT_FALSE(file.has_attribute("/none", "other"));
  EXPECT_TRUE(file.exists("/model/deep/y"));
  EXPECT_FALSE(file.exists("/model/none/y"));
  EXPECT_FALSE(file.exists("/model/x/y"));
  EXPECT_EQ(file.list("/model"), (std::vector<std::string>{"deep", "x"}));
  EXPECT_TRUE(file.list("/none").empty());
  EXPECT_EQ(file.list_datasets("/"),
            (std::vector<std::string>{"/empty", "/keys", "/model/deep/y", "/model/deep/z", "/model/x", "/n",
                                      "/scalar"}));
  EXPECT_EQ(file.list_datasets("/model"),
            (std::vector<std::string>{"/model/deep/y", "/model/deep/z", "/model/x"}));
}

TEST(Hdf5, ALongTextCostsItsOwnBytes) {
  const Scratch scratch;
  std::vector<std::string> texts;
  for (int i = 0; i < 70'000; ++i) texts.push_back("row " + std::to_string(i % 1000));  // more than one slab
  texts[3] = std::string(1'000'000, 'x');
  texts[69'999].clear();
  const auto put = [&](const std::string& name) {
    Hdf5File file = Hdf5File::create(scratch / name);
    file.write_strings("/texts", texts);
    file.write_strings("/none", {});
    file.close();
  };
  put("a.h5"), put("b.h5");
  EXPECT_LT(file_size(scratch / "a.h5"), 6'000'000);  // of one width they would be 70 GB
  EXPECT_EQ(sha256_file(scratch / "a.h5"), sha256_file(scratch / "b.h5"));
  const Hdf5File file = Hdf5File::open(scratch / "a.h5");
  EXPECT_EQ(file.read_strings("/texts"), texts);
  EXPECT_TRUE(file.read_strings("/none").empty());
  EXPECT_EQ(file.info("/texts").shape, (Shape{70'000}));
  python("t = h5py.File('" + (scratch / "a.h5") +
         "')['texts']; assert h5py.check_string_dtype(t.dtype).length is None\n" +
         "assert h5py.check_string_dtype(t.dtype).encoding == 'utf-8'; v = t.asstr()[()]\n" +
         "assert len(v[3]) == 1000000 and v[65537] == 'row 537' and v[69999] == ''");
}

TEST(Hdf5, StreamsRows) {
  const Scratch scratch;
  const Tensor x = ramp(Shape{6, 2, 2});
  {
    Hdf5File file = Hdf5File::create(scratch / "a.h5");
    file.create_dataset("/g/x", Shape{6, 2, 2}, DType::f32);
    file.write_rows("/g/x", 4, x.view().rows(4, 2));
    file.write_rows("/g/x", 0, x.view().rows(0, 4));
    file.write_rows("/g/x", 6, x.view().rows(6, 0));
    EXPECT_THROW(file.write_rows("/g/x", 5, x.view().rows(0, 2)), InternalError);
    file.close();
  }
  const Hdf5File file = Hdf5File::open(scratch / "a.h5");
  Tensor out(Shape{3, 4});
  file.read_rows("/g/x", 2, out.view());
  EXPECT_EQ(out.f32()[0], 1.0F);
  EXPECT_EQ(out.f32()[11], 19.0F / 8);
  expect_error<DataError>([&] { file.read_rows("/g/x", 4, out.view()); }, "rows 4 to 7", "/g/x");
  expect_error<DataError>([&] { file.read_rows("/g/x", -1, out.view()); }, "rows -1");
  Tensor wrong(Shape{3, 5});
  expect_error<DataError>([&] { file.read_rows("/g/x", 0, wrong.view()); }, "wrong shape");
}

TEST(Hdf5, EqualContentGivesEqualBytes) {
  const Scratch scratch;
  write_sample(scratch / "a.h5");
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // a stored time would differ
  write_sample(scratch / "b.h5");
  EXPECT_EQ(sha256_file(scratch / "a.h5"), sha256_file(scratch / "b.h5"));
}

TEST(Hdf5, FollowsSoftExternalAndCyclicLinksAndReadsForeignTypes) {
  const Scratch scratch;
  const std::string a = scratch / "a.h5", b = scratch / "b.h5";
  if (!python(
          "f=h5py.File('" + b + "','w'); f['g/x']=np.arange(6,dtype='f4').reshape(3,2); f.close()\n" +
          "f=h5py.File('" + a +
          "','w'); f['soft']=h5py.SoftLink('/own'); f['own']=np.arange(4,dtype='u2')\n" +
          "f['out']=h5py.ExternalLink('b.h5','/g'); f['loop/back']=h5py.SoftLink('/loop')\n" +
          "f['flag']=np.array([True,False]); f['half']=np.array([1.5],dtype='f2')\n" +
          "f['five']=np.zeros((1,2,3,2,2),'f8'); f['u']=np.array(['x','yy'],dtype=h5py.string_dtype())\n" +
          "f.create_dataset('z',data=np.arange(100000)%7,compression='gzip',chunks=True)\n" +
          "f.attrs['s']='text'; f.attrs['f']=np.bytes_('fixed'); f['null']=h5py.Empty('f4'); f.close()"))
    GTEST_SKIP() << "no python3 with h5py";
  const Hdf5File file = Hdf5File::open(a);
  EXPECT_EQ(file.list_datasets("/"), (std::vector<std::string>{"/five", "/flag", "/half", "/null", "/out/x",
                                                               "/own", "/soft", "/u", "/z"}));
  EXPECT_EQ(file.read("/out/x").f32()[5], 5.0F);
  EXPECT_TRUE(file.exists("/out/x"));
  EXPECT_EQ(file.info("/own").dtype, DType::i64);
  EXPECT_EQ(file.read("/soft").as<int64_t>()[3], 3);
  EXPECT_EQ(file.read("/flag").as<uint8_t>()[0], 1);
  EXPECT_EQ(file.read("/half").f32()[0], 1.5F);
  EXPECT_EQ(file.info("/five").shape, (Shape{1, 2, 3, 4}));
  EXPECT_EQ(file.info("/five").dims.size(), 5u);
  EXPECT_EQ(file.read_strings("/u"), (std::vector<std::string>{"x", "yy"}));
  EXPECT_EQ(file.read("/z").as<int64_t>()[99999], 99999 % 7);
  EXPECT_EQ(file.read("/null").numel(), 0);
  EXPECT_EQ(file.attribute_string("/", "s"), "text");
  EXPECT_EQ(file.attribute_string("/", "f"), "fixed");
  std::filesystem::remove(b);
  const Hdf5File broken = Hdf5File::open(a);
  EXPECT_FALSE(broken.exists("/out/x"));
  expect_error<DataError>([&] { (void)broken.list_datasets("/"); }, "broken link", "/out");
}

TEST(Hdf5, PythonReadsWhatWeWrite) {
  const Scratch scratch;
  write_sample(scratch / "a.h5");
  if (!python("f=h5py.File('" + (scratch / "a.h5") +
              "','r'); assert f['model/x'].shape==(4,3) and f['model/x'][3,2]==11/8\n" +
              "assert abs(f['model/deep/y'][1,1]-3.3)<.02; assert f['n'][:].tolist()==[-3,-2,-1,0,1]\n" +
              "assert list(f.attrs['classes'])==['cat','dog'] and f['model/x'].attrs['count']==8\n" +
              "assert f['keys'].asstr()[0]=='a' and f['model/x'].attrs['note']=='text'"))
    GTEST_SKIP() << "no python3 with h5py";
}

TEST(Hdf5, BrokenFilesAreNamedWithTheirFault) {
  const Scratch scratch;
  write_sample(scratch / "a.h5");
  const std::string whole = read_text(scratch / "a.h5");
  expect_error<MissingInputError>([&] { (void)Hdf5File::open(scratch / "none.h5"); }, scratch / "none.h5");
  expect_error<DataError>([&] { (void)Hdf5File::open(scratch.folder()); }, "is a folder");
  scratch.put("x.h5", "garbage that is no HDF5 file");
  expect_error<DataError>([&] { (void)Hdf5File::open(scratch / "x.h5"); }, scratch / "x.h5",
                          "not an HDF5 file");
  scratch.put("x.h5", "");
  expect_error<DataError>([&] { (void)Hdf5File::open(scratch / "x.h5"); }, scratch / "x.h5",
                          "not an HDF5 file");
  scratch.put("x.h5", whole.substr(0, whole.size() / 2));
  expect_error<DataError>([&] { (void)Hdf5File::open(scratch / "x.h5"); }, scratch / "x.h5", "truncated");
  const Hdf5File file = Hdf5File::open(scratch / "a.h5");
  expect_error<DataError>([&] { (void)file.read("/model/none"); }, scratch / "a.h5", "/model/none");
  expect_error<DataError>([&] { (void)file.read("/model"); }, "/model");
  expect_error<DataError>([&] { (void)file.read("/keys", DType::f32); }, "/keys", "strings");
  expect_error<DataError>([&] { (void)file.read_strings("/n"); }, "/n", "no strings");
  expect_error<DataError>([&] { (void)file.attribute_number("/n", "x"); }, "no attribute 'x'");
  expect_error<DataError>([&] { (void)file.attribute_string("/model/x", "rate"); }, "no text");
  expect_error<DataError>([&] { (void)file.attribute_number("/", "classes"); }, "no numbers");
  expect_error<DataError>([&] { (void)file.attribute_number("/model", "shape"); }, "3 values");
  expect_error<IoError>([] { (void)Hdf5File::create("/no/such/out.h5"); }, "/no/such/out.h5");
}

TEST(Hdf5, ShapesThatTheFileCannotHoldAreRefusedBeforeMemoryIsAllocated) {
  const Scratch scratch;
  if (!python("f=h5py.File('" + (scratch / "a.h5") +
              "','w'); f.create_dataset('lie',(10**6,10**6),'f4',chunks=(64,64))\n" +
              "f.create_dataset('hole',(0,2**60),'f4'); f.close()"))
    GTEST_SKIP() << "no python3 with h5py";
  const Hdf5File file = Hdf5File::open(scratch / "a.h5");
  expect_error<DataError>([&] { (void)file.read("/lie"); }, "/lie", "claims");
  expect_error<DataError>([&] { (void)file.info("/lie"); }, "/lie");
}

TEST(Hdf5, ManyThreadsMayUseTheirFilesAtOnce) {
  const Scratch scratch;
  std::vector<std::thread> threads;
  std::vector<int> good(4, 0);
  for (size_t t = 0; t < good.size(); ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 10; ++i) {
        const std::string path = scratch / std::to_string(t);
        write_sample(path);
        good[t] += Hdf5File::open(path).read("/model/x").f32()[11] == 11.0F / 8;
      }
    });
  for (auto& thread : threads) thread.join();
  for (const int count : good) EXPECT_EQ(count, 10);
}

}  // namespace
}  // namespace dino
