/* A stand-in for libnvidia-ml.so.1: COUNT GPUs of 80 GB, the second one half used. Built by tests/simulators/nvml.py.
   FAIL makes nvmlInit answer with that code. Structures as in nvml.h 12. */
#include <stdlib.h>
#include <string.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct {
    char busIdLegacy[16];
    unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} pci_t;

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

int nvmlInit_v2(void) { return (int)number("FAIL", 0); }
int nvmlInitWithFlags(unsigned int flags) { (void)flags; return nvmlInit_v2(); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { (void)code; return "a stand-in's error"; }
int nvmlSystemGetDriverVersion(char *text, unsigned int length) { strncpy(text, "580.65.06", length); return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = (unsigned int)number("COUNT", 2); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) { *device = (void *)(long)(index + 1); return 0; }
int nvmlDeviceGetName(void *device, char *text, unsigned int length) {
    (void)device;
    strncpy(text, "NVIDIA H100 80GB HBM3", length);
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    memory->total = 85520809984ULL;
    memory->used = (long)device == 2 ? memory->total / 2 : memory->total / 100;
    memory->free = memory->total - memory->used;
    return 0;
}
int nvmlDeviceGetPciInfo_v3(void *device, pci_t *pci) {
    (void)device;
    memset(pci, 0, sizeof *pci);
    pci->pciDeviceId = 0x233010de;
    return 0;
}
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    (void)device;
    *major = 9;
    *minor = 0;
    return 0;
}
