/* Stand-in for libggml-cuda.so: one fat binary, as nvcc lays it out, whose image holds no code. */
#include <stdint.h>

struct fat_binary {
    uint32_t magic;
    uint16_t version, header;
    uint64_t size;
    uint16_t kind, image_version;
    uint32_t image_header;
    uint64_t payload;
    uint32_t unknown[3], architecture;
    uint64_t more[4];
};

__attribute__((section(".nv_fatbin"), used)) const struct fat_binary fat_binary = {
    .magic = 0xBA55ED50, .version = 1, .header = 16, .size = 64,
    .kind = 2, .image_version = 0x101, .image_header = 64, .payload = 0,
    .architecture = ARCHITECTURE,
};
