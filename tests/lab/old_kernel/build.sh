#!/bin/bash
# In Ubuntu's root of the kernel's time: what tinyconfig and the options of $1 make, left in $2.
set -e
cd "$2/source"
make tinyconfig >/dev/null 2>&1
bash scripts/kconfig/merge_config.sh -m .config "$1" >/dev/null
sed -i s/CONFIG_CC_OPTIMIZE_FOR_SIZE=y// .config
yes '' | make olddefconfig >/dev/null
make -j"$(nproc)" bzImage >/dev/null
mv vmlinux arch/x86/boot/bzImage "$2"
