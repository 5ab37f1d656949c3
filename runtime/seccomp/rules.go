package seccomp

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// architectures lists what programs the kernel of arch runs: its own and the older ones, which must not be a way around the filter.
func architectures(arch string) ([]specs.Arch, error) {
	switch arch {
	case "amd64":
		return []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}, nil
	case "arm64":
		return []specs.Arch{specs.ArchAARCH64, specs.ArchARM}, nil
	}
	return nil, fmt.Errorf("seccomp filter for the architecture %q: %w", arch, errdefs.ErrNotImplemented)
}

// refuse makes the named calls fail with errno, if the condition holds.
func refuse(errno unix.Errno, condition []specs.LinuxSeccompArg, names ...string) specs.LinuxSyscall {
	code := uint(errno)
	return specs.LinuxSyscall{Names: names, Action: specs.ActErrno, ErrnoRet: &code, Args: condition}
}

// allow lets the named calls pass, if the condition holds.
func allow(condition []specs.LinuxSeccompArg, names ...string) specs.LinuxSyscall {
	return specs.LinuxSyscall{Names: names, Action: specs.ActAllow, Args: condition}
}

// equal32 holds when the low 32 bits of an argument are value.
func equal32(index uint, value uint32) []specs.LinuxSeccompArg {
	return masked(index, 0xffffffff, uint64(value))
}

// bits holds when all bits of mask are set in an argument.
func bits(index uint, mask uint64) []specs.LinuxSeccompArg { return masked(index, mask, mask) }

// noBits holds when no bit of mask is set in an argument.
func noBits(index uint, mask uint64) []specs.LinuxSeccompArg { return masked(index, mask, 0) }

func masked(index uint, mask, value uint64) []specs.LinuxSeccompArg {
	return []specs.LinuxSeccompArg{{Index: index, Op: specs.OpMaskedEqual, Value: mask, ValueTwo: value}}
}
