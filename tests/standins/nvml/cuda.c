/* Stand-in for libcuda.so.1: the few driver functions with which the probe measures a card's
 * memory. "Device" memory is the host's, so that a copy takes real time; the GPUs are those of the
 * topology. Signatures follow NVIDIA's cuda.h. */
#include "standin.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101 };

int cuInit(unsigned flags)
{
    (void)flags;
    if (standin_load() || machine.init_fault) return NO_DEVICE;
    standin_hang("cuda");
    return OK;
}

int cuDeviceGetCount(int *count) { *count = machine.gpu_count; return OK; }

int cuDeviceGet(int *device, int index)
{
    *device = index;
    return index < machine.gpu_count ? OK : INVALID_DEVICE;
}

int cuDeviceGetPCIBusId(char *text, int size, int device)
{
    /* CUDA writes four digits of the domain, NVML eight. */
    snprintf(text, (size_t)size, "%s", machine.gpus[device].bus + 4);
    return OK;
}

int cuCtxCreate_v2(void **context, unsigned flags, int device)
{
    (void)flags;
    *context = &machine.gpus[device];
    return machine.gpus[device].error ? INVALID_DEVICE : OK;
}

int cuCtxDestroy_v2(void *context) { (void)context; return OK; }
int cuCtxSynchronize(void) { return OK; }

int cuMemAlloc_v2(uint64_t *pointer, size_t size)
{
    void *memory = calloc(1, size);
    *pointer = (uint64_t)(uintptr_t)memory;
    return memory ? OK : OUT_OF_MEMORY;
}

int cuMemFree_v2(uint64_t pointer) { free((void *)(uintptr_t)pointer); return OK; }

int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t size)
{
    memcpy((void *)(uintptr_t)to, (void *)(uintptr_t)from, size);
    return OK;
}
