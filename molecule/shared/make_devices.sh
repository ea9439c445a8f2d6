#!/bin/sh
# Character devices that can be opened and that no engine allows by itself, in place of the GPUs':
# /dev/cpu/0/cpuid, which can be read, else /dev/loop-control. The toolkit's service wants nvidia.ko
# among the running kernel's modules. An image for containers is /bin/busybox alone.
set -eu
number="10 237"
mknod /dev/infra-llm-trial c 203 0
if dd if=/dev/infra-llm-trial of=/dev/null bs=16 count=1 2>/dev/null; then number="203 0"; fi
rm /dev/infra-llm-trial
for name in nvidiactl $(nvidia-smi -L | sed -n 's/^GPU \([0-9]*\):.*/nvidia\1/p'); do
    rm -f /dev/$name
    # shellcheck disable=SC2086
    mknod -m 666 /dev/$name c $number
done
mkdir -p "/lib/modules/$(uname -r)"
echo "kernel/drivers/video/nvidia.ko:" >>"/lib/modules/$(uname -r)/modules.dep"
