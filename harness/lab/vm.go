package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ephemeral-builder/image/command"
)

const (
	qemuLog   = "qemu.log" // what QEMU prints
	qemuLine  = "qemu.sh"  // its command line
	handInImg = "handin.img"
)

// vmFiles are those that end with the VM.
var vmFiles = []string{handInImg}

func (l *Lab) startVM(ctx context.Context, cfg Config, base *os.File) error {
	if err := l.makeHandInImage(ctx); err != nil {
		return err
	}
	return l.bootSomehow(ctx, cfg, base)
}

// bootSomehow boots the VM, by KVM if that works, and learns its ports.
func (l *Lab) bootSomehow(ctx context.Context, cfg Config, base *os.File) error {
	accel := cfg.Accel
	if accel == "" {
		reason := kvmUnusable(cfg)
		if reason == nil {
			reason = l.boot(ctx, cfg, base, KVM)
		}
		switch {
		case reason == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !errors.As(reason, new(*kvmError)):
			return reason
		}
		cfg.Log("booting without KVM, which is much slower: %v", reason)
		accel = TCG
	}
	return l.boot(ctx, cfg, base, accel)
}

// kvmError is why KVM can't be used, while TCG may well be.
type kvmError struct{ reason string }

func (e *kvmError) Error() string { return e.reason }

// kvmPatience is how long KVM may take to the kernel's first line, which is there within a
// second where it works.
const kvmPatience = 8 * time.Second

// boot starts QEMU and asks for its ports. Under KVM it first waits for the kernel's first
// line, else returns a [kvmError] with nothing left running: there are machines on which
// KVM opens and makes a VM, and yet no guest kernel runs.
func (l *Lab) boot(ctx context.Context, cfg Config, base *os.File, accel Accel) error {
	l.desc.Accel = accel
	l.console = console{file: l.path(ConsoleLog)}
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer ours.Close()
	args := qemuArgs(cfg, accel, base.Name())
	line := fmt.Sprintf("#!/bin/sh\n# What ran here, but for QMP, which was on a socket.\ncd %s\nexec %s\n",
		command.Quote([]string{l.desc.Dir}), command.Quote(append(args[:len(args):len(args)], "-monitor", "stdio")))
	if err := os.WriteFile(l.path(qemuLine), []byte(line), 0o700); err != nil {
		theirs.Close()
		return err
	}
	log, err := os.Create(l.path(qemuLog))
	if err != nil {
		theirs.Close()
		return err
	}
	defer log.Close()

	args = append(args, "-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = l.desc.Dir
	cmd.Env = append(os.Environ(), "TMPDIR="+l.desc.Dir) // where snapshot=on keeps changes
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{theirs, base}
	err = l.launch(cmd, cfg.Detach)
	theirs.Close()
	if err != nil {
		return err
	}
	if accel == KVM {
		if err := l.kernelRuns(ctx); err != nil {
			if cfg.Accel != "" {
				return fmt.Errorf("%w: leave the accelerator open, or choose %q", err, TCG)
			}
			rememberKVM(cfg.Cache, err)
			if err := l.desc.Process.kill(ctx); err != nil {
				return err
			}
			<-l.exited
			for _, name := range []string{ConsoleLog, qemuLog} {
				ext := filepath.Ext(name)
				_ = os.Rename(l.path(name), l.path(strings.TrimSuffix(name, ext)+"-kvm"+ext))
			}
			return err
		}
	}
	forwards, err := forwardedPorts(ctx, ours)
	if err != nil {
		select {
		case <-l.exited:
			return l.qemuEnded()
		default:
			return fmt.Errorf("asking QEMU for its ports: %w", err)
		}
	}
	l.desc.Sshd, l.desc.Builder = Endpoint{loopback, forwards[22]}, Endpoint{loopback, forwards[relayPort]}
	return nil
}

// kernelRuns returns nil once the guest's kernel has printed something.
func (l *Lab) kernelRuns(ctx context.Context) error {
	silent := &kvmError{fmt.Sprintf("under KVM the kernel printed nothing for %v", kvmPatience)}
	kernelCtx, cancel := context.WithTimeoutCause(ctx, kvmPatience, silent)
	defer cancel()
	screen := console{file: l.path(ConsoleLog)}
	err := l.await(kernelCtx, func() (bool, error) {
		lines, err := screen.lines()
		if err != nil {
			return false, err
		}
		for _, line := range lines {
			if strings.Contains(line, kernelBanner) {
				return true, nil
			}
		}
		return false, l.kvmTrouble()
	})
	if errors.Is(err, errEnded) {
		return &kvmError{l.qemuEnded().Error()}
	}
	return err
}

// kvmTrouble returns an error if QEMU has stopped the guest because of KVM. QEMU itself goes
// on then, waiting for a debugger.
func (l *Lab) kvmTrouble() error {
	said, err := os.ReadFile(l.path(qemuLog))
	if line, _, _ := bytes.Cut(said, []byte("\n")); bytes.Contains(said, []byte("KVM internal error")) {
		return &kvmError{fmt.Sprintf("under KVM QEMU says %q", line)}
	}
	return err
}

func (l *Lab) qemuEnded() error {
	said, _ := os.ReadFile(l.path(qemuLog))
	return fmt.Errorf("QEMU has ended: %s", bytes.TrimSpace(said))
}

// kvmUnusable returns why there is no use in trying KVM, or nil.
func kvmUnusable(cfg Config) error {
	f, err := os.OpenFile(cfg.kvm, os.O_RDWR, 0)
	if err != nil {
		return &kvmError{err.Error()}
	}
	f.Close()
	boot, err := bootID()
	if err != nil {
		return err
	}
	note, err := os.ReadFile(kvmNote(cfg.Cache))
	if reason, ok := strings.CutPrefix(string(note), boot+"\n"); ok && err == nil {
		return &kvmError{fmt.Sprintf("%s (as %s remembers)", reason, kvmNote(cfg.Cache))}
	}
	return nil
}

// kvmNote holds the boot of this machine for which KVM was found unusable, and why.
func kvmNote(cache string) string { return filepath.Join(cache, "kvm-unusable") }

// rememberKVM saves the next labs the attempt. Without the note they only lose seconds.
func rememberKVM(cache string, reason error) {
	if boot, err := bootID(); err == nil {
		_ = os.WriteFile(kvmNote(cache), []byte(boot+"\n"+reason.Error()), 0o644)
	}
}

const (
	loopback = "127.0.0.1"
	guest    = "10.0.2.15" // see files/etc/systemd/system/lab-network.service

	// Of lab-builder.socket. It is not 24: a builder may listen there on all addresses.
	relayPort = 2024
)

// qemuArgs is the command line, without QMP. Relative names are in Config.Dir.
func qemuArgs(cfg Config, accel Accel, base string) []string {
	// One thread for all CPUs: else code that the kernel alters while it runs, as it does for the
	// first cgroup with a CPU quota, can end in "Oops: int3".
	cpu, by := "max", "tcg,thread=single"
	if accel == KVM {
		cpu, by = "host", "kvm"
	}
	disk := func(id, file string) string {
		// In QEMU's options a comma is written twice.
		return fmt.Sprintf("if=none,id=%s,format=raw,file=%s", id, strings.ReplaceAll(file, ",", ",,"))
	}
	forward := func(port int) string {
		return fmt.Sprintf("hostfwd=tcp:%s:0-%s:%d", loopback, guest, port)
	}
	return []string{cfg.qemu, "-name", "lab", "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35", "-accel", by, "-cpu", cpu,
		"-smp", strconv.Itoa(cfg.CPUs), "-m", strconv.Itoa(cfg.Memory),
		"-kernel", filepath.Join(base, "vmlinuz"), "-initrd", filepath.Join(base, "initrd"),
		// Not quiet, and early: silence means that the kernel does not run.
		"-append", "root=/dev/vda rw console=ttyS0 earlyprintk=ttyS0 panic=-1 oops=panic net.ifnames=0 systemd.show_status=yes",
		"-serial", "file:" + ConsoleLog,
		"-device", "virtio-rng-pci", // or the first boot waits for entropy
		"-drive", disk("root", filepath.Join(base, "disk.img")) + ",snapshot=on,cache=unsafe",
		"-device", "virtio-blk-pci,drive=root",
		"-drive", disk("lab", handInImg) + ",readonly=on",
		"-device", "virtio-blk-pci,drive=lab,serial=lab",
		"-netdev", "user,id=net,restrict=on,ipv6=off," + forward(22) + "," + forward(relayPort),
		"-device", "virtio-net-pci,netdev=net,romfile=", // no network boot, which costs seconds
		"-device", "virtio-serial-pci",
		"-chardev", "file,id=ready,path=" + readyFile,
		"-device", "virtserialport,chardev=ready,name=lab.ready",
		"-chardev", "file,id=journal,path=" + JournalLog,
		"-device", "virtserialport,chardev=journal,name=lab.journal",
	}
}

// makeHandInImage makes a read-only disk of what is handed in.
func (l *Lab) makeHandInImage(ctx context.Context) error {
	dir := l.path(handedIn)
	size := int64(16 << 20)
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size() + info.Size()/8 + 8<<10 // content, its share of block maps and of inodes that nobody uses, inode
		}
		return err
	})
	if err != nil {
		return err
	}
	// By env, as people's PATH lacks the directory of mkfs.
	return command.Run(ctx, command.Cmd{Args: []string{"env", "PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal",
		"-d", dir, l.path(handInImg), fmt.Sprintf("%dK", size>>10)}})
}
