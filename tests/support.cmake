# What test programs share, those of tests/CMakeLists.txt and those of tests/gpu.
find_package(Threads REQUIRED)
add_library(dino_test_support INTERFACE)
target_link_libraries(dino_test_support INTERFACE GTest::gtest Threads::Threads)
target_include_directories(dino_test_support INTERFACE ${CMAKE_CURRENT_LIST_DIR})
add_library(dino_test_main OBJECT ${CMAKE_CURRENT_LIST_DIR}/test_main.cpp)
target_compile_definitions(dino_test_main PRIVATE "DINO_TEST_DATA=\"${CMAKE_CURRENT_LIST_DIR}\"")
target_link_libraries(dino_test_main PRIVATE dino::comm dino::storage dino_test_support)

# A device whose memory the host cannot touch, and the tests of and on it.
file(GLOB mapped_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/mapped/*.cpp)
list(FILTER mapped_sources EXCLUDE REGEX "_test\\.cpp$")
add_library(dino_mapped STATIC ${mapped_sources})
target_link_libraries(dino_mapped PUBLIC dino::ops)
target_include_directories(dino_mapped PUBLIC ${CMAKE_CURRENT_LIST_DIR})
