#!/bin/sh
# The first program of the tests' Linux guest. What it does is chosen on the kernel command line:
#   atoll.mode=shell      a shell on the serial console; power off when it ends (also without any word)
#   atoll.mode=poweroff   power off at once
#   atoll.mode=reset      reset at once
#   atoll.mode=work       count, add floating-point numbers, checksum memory and print a line for each round, for ever
#   atoll.mode=bench      run the rows atoll.rows=NAMES of the benchmark program, if the initramfs has it, and power off
#   atoll.mode=echo       read atoll.bytes=N bytes from the raw console, echo them, print their SHA-256, power off
# Lines for tests begin with ATOLL-; the crate that this file belongs to knows them.

export PATH=/bin HOME=/root TERM=linux
export PS1='atoll:/# '
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

# A line of its own: the kernel may have left the console in the middle of one.
read -r uptime idle </proc/uptime
echo
echo "ATOLL-INIT-REACHED $uptime"

mode=shell
bytes=0
rows=
read -r words </proc/cmdline
for word in $words; do
    case $word in
    atoll.mode=*) mode=${word#atoll.mode=} ;;
    atoll.bytes=*) bytes=${word#atoll.bytes=} ;;
    atoll.rows=*) rows=${word#atoll.rows=} ;;
    esac
done

# Blocks as they come, the last one shorter; each is written as soon as it is there.
echo_bytes() {
    block=256
    if [ $(($1 / block)) -gt 0 ]; then dd bs=$block count=$(($1 / block)) iflag=fullblock 2>/dev/null; fi
    if [ $(($1 % block)) -gt 0 ]; then dd bs=$(($1 % block)) count=1 iflag=fullblock 2>/dev/null; fi
}

# One process that never ends, so that what it has in registers and on its stack lives as long as the machine.
work() {
    dd if=/dev/urandom of=/tmp/data bs=64k count=64 2>/dev/null
    awk 'function sum(i, x) { for (i = 1; i <= 4000; i++) x += i / 3.7 - x / (i + 0.25); return x }
    function word(command, line) { command | getline line; close(command); split(line, words, " "); return words[1] }
    BEGIN {
        first = sum(); data = word("sha256sum /tmp/data")
        for (round = 1; ; round++) {
            state = "good"
            if (sum() != first) state = "BAD-FLOAT"
            if (word("sha256sum /tmp/data") != data) state = "BAD-MEMORY"
            printf "ATOLL-WORK %d %s %s %.15f\n", round, word("cat /proc/uptime"), state, first
            fflush()
        }
    }'
}

case $mode in
    work)
        work
        ;;
    bench)
        # A kernel that has just booted has things left to do, which are no part of any row.
        sleep 1
        bench-guest "$rows"
        ;;
    shell)
        cd /
        setsid cttyhack sh
        ;;
    poweroff) ;;
    reset)
        reboot -f
        ;;
    echo)
        exec </dev/ttyS0 >/dev/ttyS0 2>&1
        stty raw -echo
        echo "ATOLL-ECHO-READY $bytes"
        echo_bytes "$bytes" | tee /tmp/echo
        stty sane
        read -r sum name <<END
$(sha256sum /tmp/echo)
END
        echo
        echo "ATOLL-ECHO-DONE $sum $bytes"
        ;;
    *)
        echo "ATOLL-ERROR atoll.mode=$mode is unknown: use shell, poweroff, reset, work, bench or echo"
        ;;
esac

poweroff -f
