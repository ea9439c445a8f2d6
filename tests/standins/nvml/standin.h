/* A machine's NVIDIA GPUs as told by a topology file: shared by the stand-in for
 * libnvidia-ml.so.1 and the stand-in for nvidia-smi. No driver, no GPU.
 *
 * The file is $INFRA_LLM_STANDIN_GPUS, else /etc/infra-llm-standin/gpus.topology; it is read
 * again by every nvmlInit, so that a machine's GPUs can be swapped while it lives. One fact a
 * line, words separated by blanks, the last word to the end of the line:
 *
 *   driver 580.95.05            nvml 13.580.95.05          cuda 13000
 *   fault init 18               nvmlInit gives this NVML error
 *   hang init | hang device     sleeps for an hour there
 *   missing nvmlDeviceGetMemoryInfo_v2    that function gives FUNCTION_NOT_FOUND
 *   smi garbage | smi truncated what the nvidia-smi stand-in prints
 *   gpu                         begins the next GPU; these follow:
 *     name | uuid | bus TEXT
 *     device_id | subsystem_id | total | free | reserved | capability | ecc | power |
 *     clock (MHz of the memory) | bits (of its bus) |
 *     gen | gen_max | width | width_max | persistence | mig NUMBER
 *     error 15                  its handle gives this NVML error
 *     late 15                   it has a handle, and everything asked of it gives this error
 *     process PID BYTES
 *     slice BYTES SLICES UUID NAME
 *     link NUMBER BUS SWITCH VERSION
 *   level A B 50                nvmlGpuTopologyLevel_t between two GPUs
 *
 * -1 stands for "not supported".
 */
#ifndef STANDIN_H
#define STANDIN_H

#define MAX_GPUS 32
#define MAX_ITEMS 24

typedef struct { unsigned pid; unsigned long long used; } Process;
typedef struct { unsigned long long total; int slices; char uuid[96]; char name[96]; } Slice;
typedef struct { int number, is_switch, version; char bus[32]; } Link;

typedef struct {
    char name[96], uuid[96], bus[32];
    long long device_id, subsystem_id, total, free, reserved, capability, ecc, power;
    long long gen, gen_max, width, width_max, persistence, mig, error, late, clock, bits;
    Process processes[MAX_ITEMS];
    Slice slices[MAX_ITEMS];
    Link links[MAX_ITEMS];
    int process_count, slice_count, link_count;
} Gpu;

typedef struct {
    char driver[32], nvml[32], smi[16], hang[16];
    int cuda, init_fault, gpu_count;
    char missing[MAX_ITEMS][64];
    int missing_count;
    Gpu gpus[MAX_GPUS];
    int level[MAX_GPUS][MAX_GPUS];
} Machine;

extern Machine machine;

/* Reads the topology; 0, or 9 (NVML_ERROR_DRIVER_NOT_LOADED) where there is no file. */
int standin_load(void);
/* Sleeps where the topology says so. */
void standin_hang(const char *where);
/* 13 (NVML_ERROR_FUNCTION_NOT_FOUND) for a function that the topology takes away, else 0. */
int standin_missing(const char *function);

#endif
