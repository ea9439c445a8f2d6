#include "standin.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

Machine machine;

static const struct { const char *key; size_t place; } NUMBERS[] = {
#define NUMBER(key) {#key, offsetof(Gpu, key)}
    NUMBER(device_id), NUMBER(subsystem_id), NUMBER(total), NUMBER(free), NUMBER(reserved),
    NUMBER(capability), NUMBER(ecc), NUMBER(power), NUMBER(gen), NUMBER(gen_max), NUMBER(width),
    NUMBER(width_max), NUMBER(persistence), NUMBER(mig), NUMBER(error), NUMBER(late),
    NUMBER(clock), NUMBER(bits),
};

static void copy(char *to, size_t size, const char *from) { snprintf(to, size, "%s", from); }

static void read_gpu_line(Gpu *gpu, const char *key, const char *rest)
{
    for (size_t i = 0; i < sizeof NUMBERS / sizeof *NUMBERS; i++)
        if (!strcmp(key, NUMBERS[i].key)) {
            *(long long *)((char *)gpu + NUMBERS[i].place) = strtoll(rest, NULL, 0);
            return;
        }
    if (!strcmp(key, "name")) copy(gpu->name, sizeof gpu->name, rest);
    else if (!strcmp(key, "uuid")) copy(gpu->uuid, sizeof gpu->uuid, rest);
    else if (!strcmp(key, "bus")) copy(gpu->bus, sizeof gpu->bus, rest);
    else if (!strcmp(key, "process") && gpu->process_count < MAX_ITEMS) {
        Process *process = &gpu->processes[gpu->process_count++];
        sscanf(rest, "%u %llu", &process->pid, &process->used);
    } else if (!strcmp(key, "slice") && gpu->slice_count < MAX_ITEMS) {
        Slice *slice = &gpu->slices[gpu->slice_count++];
        sscanf(rest, "%llu %d %95s %95[^\n]", &slice->total, &slice->slices, slice->uuid,
               slice->name);
    } else if (!strcmp(key, "link") && gpu->link_count < MAX_ITEMS) {
        Link *link = &gpu->links[gpu->link_count++];
        sscanf(rest, "%d %31s %d %d", &link->number, link->bus, &link->is_switch, &link->version);
    }
}

static void read_line(const char *key, const char *rest)
{
    int a, b, value;
    if (!strcmp(key, "gpu")) {
        if (machine.gpu_count < MAX_GPUS) machine.gpu_count++;
    } else if (!strcmp(key, "driver")) copy(machine.driver, sizeof machine.driver, rest);
    else if (!strcmp(key, "nvml")) copy(machine.nvml, sizeof machine.nvml, rest);
    else if (!strcmp(key, "cuda")) machine.cuda = atoi(rest);
    else if (!strcmp(key, "smi")) copy(machine.smi, sizeof machine.smi, rest);
    else if (!strcmp(key, "hang")) copy(machine.hang, sizeof machine.hang, rest);
    else if (!strcmp(key, "fault")) sscanf(rest, "init %d", &machine.init_fault);
    else if (!strcmp(key, "missing") && machine.missing_count < MAX_ITEMS)
        copy(machine.missing[machine.missing_count++], sizeof machine.missing[0], rest);
    else if (!strcmp(key, "level") && sscanf(rest, "%d %d %d", &a, &b, &value) == 3) {
        if (a >= 0 && b >= 0 && a < MAX_GPUS && b < MAX_GPUS)
            machine.level[a][b] = machine.level[b][a] = value;
    } else if (machine.gpu_count > 0)
        read_gpu_line(&machine.gpus[machine.gpu_count - 1], key, rest);
}

int standin_load(void)
{
    const char *path = getenv("INFRA_LLM_STANDIN_GPUS");
    FILE *file = fopen(path && *path ? path : "/etc/infra-llm-standin/gpus.topology", "r");
    char line[512], key[64];
    if (!file) return 9;
    memset(&machine, 0, sizeof machine);
    while (fgets(line, sizeof line, file)) {
        int used = 0;
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, " %63s %n", key, &used) == 1 && key[0] != '#') read_line(key, line + used);
    }
    fclose(file);
    return 0;
}

void standin_hang(const char *where)
{
    if (!strcmp(machine.hang, where)) sleep(3600);
}

int standin_missing(const char *function)
{
    for (int i = 0; i < machine.missing_count; i++)
        if (!strcmp(machine.missing[i], function)) return 13;
    return 0;
}
