/* Stand-in for libnvidia-ml.so.1: the functions that pynvml calls for the probe and a few more.
 * Signatures and struct layouts follow NVIDIA's nvml.h (CUDA 12.9). Handles are pointers to a
 * GPU or to one of its MIG slices. */
#include "standin.h"

#include <stdio.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7 };

typedef struct {
    char busIdLegacy[16];
    unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} PciInfo;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;
typedef struct {
    unsigned pid;
    unsigned long long usedGpuMemory;
    unsigned gpuInstanceId, computeInstanceId;
} ProcessInfo;

static int ready;

#define ENTER() do { \
        int code_ = standin_missing(__func__); \
        if (code_) return code_; \
        if (!ready) return UNINITIALIZED; \
    } while (0)
#define GPU() \
    ENTER(); \
    Gpu *gpu = gpu_of(handle); \
    int state_ = gpu ? usable(gpu) : INVALID; \
    if (state_) return state_

static int usable(Gpu *gpu)
{
    standin_hang("device");
    return (int)(gpu->error ? gpu->error : gpu->late);
}

static Slice *slice_of(void *handle)
{
    for (int i = 0; i < machine.gpu_count; i++)
        for (int j = 0; j < machine.gpus[i].slice_count; j++)
            if (handle == &machine.gpus[i].slices[j]) return handle;
    return NULL;
}

static Gpu *gpu_of(void *handle)
{
    for (int i = 0; i < machine.gpu_count; i++)
        if (handle == &machine.gpus[i]) return handle;
    return NULL;
}

static int text(char *to, unsigned size, const char *from)
{
    if (!from[0]) return NOT_SUPPORTED;
    if (strlen(from) + 1 > size) return TOO_SMALL;
    strcpy(to, from);
    return OK;
}

static int number(unsigned *to, long long value)
{
    if (value < 0) return NOT_SUPPORTED;
    *to = (unsigned)value;
    return OK;
}

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    int code = standin_load();
    if (code) return code;
    standin_hang("init");
    if (machine.init_fault) return machine.init_fault;
    code = standin_missing(__func__);
    if (!code) ready = 1;
    return code;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlInit(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { ready = 0; return OK; }

const char *nvmlErrorString(int code)
{
    static const char *known[] = {
        [0] = "Success", [1] = "Uninitialized", [2] = "Invalid Argument", [3] = "Not Supported",
        [4] = "Insufficient Permissions", [6] = "Not Found", [7] = "Insufficient Size",
        [9] = "Driver Not Loaded", [10] = "Timeout", [12] = "NVML Shared Library Not Found",
        [13] = "Function Not Found", [14] = "Corrupted infoROM", [15] = "GPU is lost",
        [16] = "GPU requires restart", [17] = "The operating system has blocked the request",
        [18] = "Driver/library version mismatch",
    };
    if (code < 0 || code >= (int)(sizeof known / sizeof *known) || !known[code])
        return "Unknown Error";
    return known[code];
}

int nvmlSystemGetDriverVersion(char *version, unsigned size)
{
    ENTER();
    return text(version, size, machine.driver);
}

int nvmlSystemGetNVMLVersion(char *version, unsigned size)
{
    return text(version, size, machine.nvml);
}

int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    ENTER();
    *version = machine.cuda;
    return machine.cuda ? OK : NOT_SUPPORTED;
}

int nvmlSystemGetCudaDriverVersion(int *version)
{
    return nvmlSystemGetCudaDriverVersion_v2(version);
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    ENTER();
    *count = (unsigned)machine.gpu_count;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle)
{
    ENTER();
    if (index >= (unsigned)machine.gpu_count) return INVALID;
    if (machine.gpus[index].error) return (int)machine.gpus[index].error;
    *handle = &machine.gpus[index];
    return OK;
}

int nvmlDeviceGetName(void *handle, char *name, unsigned size)
{
    ENTER();
    Slice *slice = slice_of(handle);
    if (slice) return text(name, size, slice->name);
    GPU();
    return text(name, size, gpu->name);
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned size)
{
    ENTER();
    Slice *slice = slice_of(handle);
    if (slice) return text(uuid, size, slice->uuid);
    GPU();
    return text(uuid, size, gpu->uuid);
}

static void fill_pci(PciInfo *info, const char *bus)
{
    unsigned domain = 0, number_ = 0, device = 0;
    memset(info, 0, sizeof *info);
    sscanf(bus, "%x:%x:%x", &domain, &number_, &device);
    info->domain = domain;
    info->bus = number_;
    info->device = device;
    snprintf(info->busId, sizeof info->busId, "%s", bus);
    snprintf(info->busIdLegacy, sizeof info->busIdLegacy, "%04X:%02X:%02X.0", domain & 0xffff,
             number_ & 0xff, device & 0xff);
}

int nvmlDeviceGetPciInfo_v3(void *handle, PciInfo *info)
{
    GPU();
    fill_pci(info, gpu->bus);
    info->pciDeviceId = (unsigned)gpu->device_id;
    info->pciSubSystemId = (unsigned)gpu->subsystem_id;
    return OK;
}

int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory)
{
    ENTER();
    Slice *slice = slice_of(handle);
    if (slice) {
        memory->total = memory->free = slice->total;
        memory->used = 0;
        return OK;
    }
    GPU();
    if (gpu->total < 0) return NOT_SUPPORTED;
    memory->total = (unsigned long long)gpu->total;
    memory->free = (unsigned long long)gpu->free;
    memory->used = memory->total - memory->free;
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(void *handle, Memory2 *memory)
{
    ENTER();
    Slice *slice = slice_of(handle);
    Memory plain;
    int code = nvmlDeviceGetMemoryInfo(handle, &plain);
    if (code) return code;
    memory->total = plain.total;
    memory->free = plain.free;
    memory->reserved = slice ? 0 : (unsigned long long)((Gpu *)handle)->reserved;
    memory->used = plain.total - plain.free - memory->reserved;
    return OK;
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor)
{
    GPU();
    if (gpu->capability < 0) return NOT_SUPPORTED;
    *major = (int)(gpu->capability / 10);
    *minor = (int)(gpu->capability % 10);
    return OK;
}

int nvmlDeviceGetEccMode(void *handle, unsigned *current, unsigned *pending)
{
    GPU();
    *pending = gpu->ecc > 0;
    return number(current, gpu->ecc);
}

#define PLAIN(name, field) \
    int name(void *handle, unsigned *value) { GPU(); return number(value, gpu->field); }
PLAIN(nvmlDeviceGetEnforcedPowerLimit, power)
PLAIN(nvmlDeviceGetCurrPcieLinkGeneration, gen)
PLAIN(nvmlDeviceGetMaxPcieLinkGeneration, gen_max)
PLAIN(nvmlDeviceGetCurrPcieLinkWidth, width)
PLAIN(nvmlDeviceGetMaxPcieLinkWidth, width_max)
PLAIN(nvmlDeviceGetPersistenceMode, persistence)
PLAIN(nvmlDeviceGetMemoryBusWidth, bits)

int nvmlDeviceGetMaxClockInfo(void *handle, unsigned kind, unsigned *clock)
{
    GPU();
    return kind == 2 ? number(clock, gpu->clock) : NOT_SUPPORTED;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending)
{
    GPU();
    *pending = gpu->mig > 0;
    return number(current, gpu->mig);
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count)
{
    GPU();
    *count = gpu->mig < 0 ? 0 : 7;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **child)
{
    GPU();
    if (index >= (unsigned)gpu->slice_count) return NOT_FOUND;
    *child = &gpu->slices[index];
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *infos)
{
    GPU();
    unsigned room = *count;
    *count = (unsigned)gpu->process_count;
    if (gpu->process_count == 0) return OK;
    if (!infos || room < (unsigned)gpu->process_count) return TOO_SMALL;
    for (int i = 0; i < gpu->process_count; i++) {
        infos[i].pid = gpu->processes[i].pid;
        infos[i].usedGpuMemory = gpu->processes[i].used;
        infos[i].gpuInstanceId = infos[i].computeInstanceId = 0xFFFFFFFF;
    }
    return OK;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *infos)
{
    (void)infos;
    GPU();
    *count = 0;
    return OK;
}

static Link *link_of(Gpu *gpu, unsigned number_)
{
    for (int i = 0; i < gpu->link_count; i++)
        if (gpu->links[i].number == (int)number_) return &gpu->links[i];
    return NULL;
}

int nvmlDeviceGetNvLinkState(void *handle, unsigned number_, unsigned *active)
{
    GPU();
    if (gpu->link_count == 0) return NOT_SUPPORTED;
    *active = link_of(gpu, number_) != NULL;
    return OK;
}

int nvmlDeviceGetNvLinkVersion(void *handle, unsigned number_, unsigned *version)
{
    GPU();
    Link *link = link_of(gpu, number_);
    return link ? number(version, link->version) : INVALID;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *handle, unsigned number_, PciInfo *info)
{
    GPU();
    Link *link = link_of(gpu, number_);
    if (!link) return INVALID;
    fill_pci(info, link->bus);
    return OK;
}

int nvmlDeviceGetNvLinkRemoteDeviceType(void *handle, unsigned number_, unsigned *kind)
{
    GPU();
    Link *link = link_of(gpu, number_);
    if (!link) return INVALID;
    *kind = link->is_switch ? 2 : 0;
    return OK;
}

int nvmlDeviceGetTopologyCommonAncestor(void *handle, void *other, unsigned *level)
{
    GPU();
    Gpu *peer = gpu_of(other);
    if (!peer) return INVALID;
    *level = (unsigned)machine.level[gpu - machine.gpus][peer - machine.gpus];
    return OK;
}
