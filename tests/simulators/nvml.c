/* A stand-in for libnvidia-ml.so.1 that shows the machine of nvml_machine.h, which tests/simulators/nvml.py writes.
   FAIL makes nvmlInit answer with that code. Structures as in nvml.h 12. */
#include <stdlib.h>
#include <string.h>

enum { NOT_SUPPORTED = 3, NOT_FOUND = 6, INVALID_ARGUMENT = 2, SWITCH = -2, NO_LINK = -1, DOWN = -3, LINKS = 18 };

typedef struct {
    const char *name, *uuid, *bus;
    unsigned long long total, used, reserved;
    int major, minor;
    unsigned int pci, cores, clock;
    int fault, memory_fault;  /* codes that every call, or those for memory, answer with */
    int mig, first, instances; /* whether MIG mode is on, and which of the table's instances are this GPU's */
    int links[LINKS];
} gpu_t;

typedef struct {
    const char *name, *uuid;
    unsigned long long total, used, reserved, megabytes;
    unsigned int slices, computing, gpu_instance, compute_instance;
    int memory_fault;
} instance_t;

#include "nvml_machine.h"

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct {
    char busIdLegacy[16];
    unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} pci_t;
typedef struct {
    unsigned int multiprocessors, copy, decoders, encoders, jpeg, ofa, slices, computing;
    unsigned long long megabytes;
} attributes_t;

static const gpu_t *gpu(const void *handle) { /* NULL for the handle of an instance */
    const gpu_t *each = handle;
    return each >= GPUS && each < GPUS + GPU_COUNT ? each : NULL;
}
static const instance_t *instance(const void *handle) { return handle; }
static int copy(char *to, const char *text, unsigned int length) { strncpy(to, text, length); return 0; }

int nvmlInit_v2(void) { const char *code = getenv("FAIL"); return code ? atoi(code) : 0; }
int nvmlInitWithFlags(unsigned int flags) { (void)flags; return nvmlInit_v2(); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { (void)code; return "a stand-in's error"; }
int nvmlSystemGetDriverVersion(char *text, unsigned int length) { return copy(text, DRIVER, length); }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = CUDA; return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = GPU_COUNT; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, const void **device) {
    *device = &GPUS[index];
    return GPUS[index].fault;
}
int nvmlDeviceGetName(const void *device, char *text, unsigned int length) {
    return copy(text, gpu(device) ? gpu(device)->name : instance(device)->name, length);
}
int nvmlDeviceGetUUID(const void *device, char *text, unsigned int length) {
    return copy(text, gpu(device) ? gpu(device)->uuid : instance(device)->uuid, length);
}
static int sizes(const void *device, memory_v2_t *memory) {
    const gpu_t *whole = gpu(device);
    memory->total = whole ? whole->total : instance(device)->total;
    memory->used = whole ? whole->used : instance(device)->used;
    memory->reserved = whole ? whole->reserved : instance(device)->reserved;
    memory->free = memory->total - memory->used - memory->reserved;
    return whole ? whole->memory_fault : instance(device)->memory_fault;
}
int nvmlDeviceGetMemoryInfo_v2(const void *device, memory_v2_t *memory) { return sizes(device, memory); }
int nvmlDeviceGetMemoryInfo(const void *device, memory_t *memory) {
    memory_v2_t told;
    int code = sizes(device, &told);
    memory->total = told.total;
    memory->free = told.free;
    memory->used = told.used + told.reserved;
    return code;
}
static int place(const gpu_t *each, pci_t *pci) {
    memset(pci, 0, sizeof *pci);
    pci->pciDeviceId = each->pci;
    return copy(pci->busId, each->bus, sizeof pci->busId);
}
int nvmlDeviceGetPciInfo_v3(const void *device, pci_t *pci) { return place(gpu(device), pci); }
int nvmlDeviceGetCudaComputeCapability(const void *device, int *major, int *minor) {
    *major = gpu(device)->major;
    *minor = gpu(device)->minor;
    return 0;
}
int nvmlDeviceGetNumGpuCores(const void *device, unsigned int *cores) { *cores = gpu(device)->cores; return 0; }
int nvmlDeviceGetMaxClockInfo(const void *device, int type, unsigned int *clock) {
    *clock = gpu(device)->clock;
    return type == 1 ? 0 : INVALID_ARGUMENT;
}

int nvmlDeviceGetMigMode(const void *device, unsigned int *current, unsigned int *pending) {
    *current = *pending = gpu(device)->mig > 0;
    return gpu(device)->mig < 0 ? NOT_SUPPORTED : 0;
}
int nvmlDeviceGetMaxMigDeviceCount(const void *device, unsigned int *count) { (void)device; *count = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(const void *device, unsigned int index, const void **found) {
    const gpu_t *each = gpu(device);
    unsigned int gap = each->instances > 1; /* as after one of several was removed: handles need not be in a row */
    unsigned int number = index && gap ? index - 1 : index;
    if ((index == 1 && gap) || number >= (unsigned int)each->instances) return NOT_FOUND;
    *found = &INSTANCES[each->first + number];
    return 0;
}
int nvmlDeviceGetGpuInstanceId(const void *device, unsigned int *id) { *id = instance(device)->gpu_instance; return 0; }
int nvmlDeviceGetComputeInstanceId(const void *device, unsigned int *id) {
    *id = instance(device)->compute_instance;
    return 0;
}
int nvmlDeviceGetAttributes_v2(const void *device, attributes_t *attributes) {
    memset(attributes, 0, sizeof *attributes);
    attributes->slices = instance(device)->slices;
    attributes->computing = instance(device)->computing;
    attributes->megabytes = instance(device)->megabytes;
    return 0;
}

int nvmlDeviceGetNvLinkState(const void *device, unsigned int link, unsigned int *is_active) {
    if (link >= LINKS) return INVALID_ARGUMENT;
    *is_active = gpu(device)->links[link] != DOWN;
    return gpu(device)->links[link] == NO_LINK ? NOT_SUPPORTED : 0;
}
int nvmlDeviceGetNvLinkRemoteDeviceType(const void *device, unsigned int link, unsigned int *type) {
    *type = gpu(device)->links[link] == SWITCH ? 2 : 0;
    return 0;
}
int nvmlDeviceGetNvLinkRemotePciInfo_v2(const void *device, unsigned int link, pci_t *pci) {
    int other = gpu(device)->links[link];
    return other < 0 ? NOT_SUPPORTED : place(&GPUS[other], pci);
}
int nvmlDeviceGetP2PStatus(const void *one, const void *other, int capability, int *status) {
    int here = 0, there = 0, direct = 0;
    for (int link = 0; link < LINKS; link++) {
        here |= gpu(one)->links[link] == SWITCH;
        there |= gpu(other)->links[link] == SWITCH;
        direct |= gpu(one)->links[link] == (int)(gpu(other) - GPUS);
    }
    *status = capability == 2 && (direct || (here && there)) ? 0 : 5;
    return 0;
}
