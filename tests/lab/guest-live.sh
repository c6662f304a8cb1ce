#!/bin/busybox sh
# A guest in which kcrash looks at the running kernel: the lines of /script; and what /proc says. With
# /capture.gz the guest dies instead, and kcrash looks at it from the capture kernel, which runs this too.
/bin/busybox mkdir -p /bin /sbin /proc /sys /dev /tmp /py
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for pass in 1 2 3 4; do
  for m in /mods/*.ko; do insmod "$m"; done
done >/dev/null 2>&1
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty raw -echo opost onlcr
dmesg -n 1
echo 0 >/proc/sys/kernel/kptr_restrict
for i in 1 2 3 4 5 6 7 8 9; do [ -e /dev/vdb ] || sleep 1; done
mount -t ext4 -o ro /dev/vdb /py
for d in proc sys dev; do mount --bind /$d /py/$d; done
mount -t tmpfs tmp /py/tmp
cp -r /src /py/tmp/
sleep 100000 &
SLEEPER=$!
sleep 1
blas=/usr/lib/x86_64-linux-gnu
export LD_LIBRARY_PATH=$blas/blas:$blas/lapack PYTHONPATH=/tmp/src PYTHONPYCACHEPREFIX=/tmp/compiled HOME=/tmp LC_ALL=C.UTF-8
tell() { echo "BEGIN $1"; shift; "$@"; echo "END"; }
tell sleeper echo $SLEEPER
tell stack cat /proc/$SLEEPER/stack
tell modules cat /proc/modules
tell version cat /proc/version
tell symbols grep -E ' (linux_banner|schedule|init_task)$' /proc/kallsyms
tell dmesg dmesg
tell before cat /proc/uptime
tell tasks sh -c 'cat /proc/[0-9]*/task/[0-9]*/stat'
if [ -e /capture.gz ]; then
  kexec -p /vmlinuz --initrd=/capture.gz --append="console=ttyS0 irqpoll nr_cpus=1 reset_devices panic=1"
  echo c >/proc/sysrq-trigger
fi
[ -e /proc/vmcore ] && dump=/proc/vmcore
echo "BEGIN kcrash"
chroot /py python3 -m kcrash -s $dump </script
echo "STATUS $?"
echo END
tell after cat /proc/uptime
echo READY
poweroff -f
