package guard

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/seccomp"
)

// hooks are the security hooks that have a program.
var hooks = []string{"sb_mount", "file_open", "inode_setattr", "netlink_send", "bpf"}

// program is one of the programs, loaded.
type program struct {
	hook string
	prog *ebpf.Program
}

// programs loads them all.
func programs(m *maps, level int) ([]program, error) {
	l, err := readLayout()
	if err != nil {
		return nil, err
	}
	var list []program
	for _, hook := range hooks {
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "guard_" + hook, Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, AttachTo: hook, License: "Dual MIT/GPL", Instructions: instructions(hook, m, level, l),
		})
		if err != nil {
			for _, p := range list {
				p.prog.Close()
			}
			return nil, fmt.Errorf("load the program of %s: %w", hook, err)
		}
		list = append(list, program{hook, prog})
	}
	return list, nil
}

// instructions returns the program of a hook.
func instructions(hook string, m *maps, level int, l *layout) asm.Instructions {
	b := &builder{maps: m, level: int32(level), layout: l}
	switch hook {
	case "sb_mount":
		b.sbMount()
	case "file_open":
		b.fileOpen()
	case "inode_setattr":
		b.inodeSetattr()
	case "netlink_send":
		b.netlinkSend()
	case "bpf":
		b.bpf()
	}
	return b.code
}

// The programs are written in assembler: they are small, and read structures whose layout is known only where they run. R6 is the
// hook's arguments throughout, R7 to R9 hold what a program has found. Every program ends at "allow" or "deny".
type builder struct {
	maps   *maps
	level  int32
	layout *layout
	code   asm.Instructions
}

// Where things lie on the stack, from its frame pointer.
const (
	stackKey  = -32 // a name, and other keys of maps
	stackWord = -40 // what was read last
)

func (b *builder) add(code ...asm.Instruction) { b.code = append(b.code, code...) }

// begin lets pass whoever is no guest, and not the one that tries the programs out.
func (b *builder) begin() {
	b.add(
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm(asm.R1, b.level),
		asm.FnGetCurrentAncestorCgroupId.Call(),
		asm.StoreMem(asm.RFP, stackKey, asm.R0, asm.DWord),
	)
	b.lookup(b.maps.guests)
	b.add(
		asm.JNE.Imm(asm.R0, 0, "guest"),
		asm.StoreImm(asm.RFP, stackKey, 0, asm.Word),
	)
	b.lookup(b.maps.canary)
	b.add(
		asm.JEq.Imm(asm.R0, 0, "allow"),
		asm.LoadMem(asm.R7, asm.R0, 0, asm.Word),
		asm.FnGetCurrentPidTgid.Call(),
		asm.RSh.Imm(asm.R0, 32),
		asm.JNE.Reg(asm.R0, asm.R7, "allow"),
	)
	b.label("guest")
}

// label names a place to jump to. R0 is lost there.
func (b *builder) label(name string) { b.add(asm.Mov.Imm(asm.R0, 0).WithSymbol(name)) }

// end is what every program ends with.
func (b *builder) end() {
	b.add(
		asm.Mov.Imm(asm.R0, 0).WithSymbol("allow"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, -int32(unix.EPERM)).WithSymbol("deny"),
		asm.Return(),
	)
}

// lookup looks the key on the stack up; R0 is the value's address, or 0.
func (b *builder) lookup(m *ebpf.Map) {
	b.add(
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, stackKey),
		asm.FnMapLookupElem.Call(),
	)
}

// read reads size bytes of the kernel's memory at base+offset into to, a number of at most 8 bytes.
func (b *builder) read(to, base asm.Register, offset int32, size asm.Size) {
	b.add(
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, stackWord, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R3, base),
		asm.Add.Imm(asm.R3, offset),
		asm.Mov.Imm(asm.R2, int32(size.Sizeof())),
		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, stackWord),
		asm.FnProbeReadKernel.Call(),
		asm.LoadMem(to, asm.RFP, stackWord, asm.DWord),
	)
}

// readName reads the string whose address is in from to the key on the stack.
func (b *builder) readName(from asm.Register) {
	b.add(asm.Mov.Imm(asm.R1, 0))
	for at := int16(0); at < nameSize; at += 8 {
		b.add(asm.StoreMem(asm.RFP, stackKey+at, asm.R1, asm.DWord))
	}
	b.add(
		asm.Mov.Reg(asm.R3, from),
		asm.Mov.Imm(asm.R2, nameSize),
		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, stackKey),
		asm.FnProbeReadKernelStr.Call(),
	)
}

// flagsOf reads what is known of the name of the dentry in reg to R0; a name of which nothing is known has no flags.
func (b *builder) flagsOf(reg asm.Register, known string) {
	b.read(asm.R3, reg, b.layout.nameChars, asm.DWord)
	b.add(asm.Mov.Reg(asm.R7, asm.R3))
	b.readName(asm.R7)
	b.lookup(b.maps.names)
	b.add(
		asm.JEq.Imm(asm.R0, 0, known),
		asm.LoadMem(asm.R0, asm.R0, 0, asm.Word),
	)
	b.add(asm.Mov.Reg(asm.R0, asm.R0).WithSymbol(known))
}

// sbMount: (dev_name, path, type, flags, data).
func (b *builder) sbMount() {
	b.begin()
	const others = unix.MS_BIND | unix.MS_SHARED | unix.MS_PRIVATE | unix.MS_SLAVE | unix.MS_UNBINDABLE
	b.add(
		asm.LoadMem(asm.R7, asm.R6, 24, asm.DWord),
		// A remount of a mount alone changes the guest's; which are allowed is the filter's matter.
		asm.Mov.Reg(asm.R8, asm.R7),
		asm.And.Imm(asm.R8, unix.MS_REMOUNT|unix.MS_BIND),
		asm.JEq.Imm(asm.R8, unix.MS_REMOUNT, "deny"),
		asm.Mov.Reg(asm.R8, asm.R7),
		asm.And.Imm(asm.R8, others),
		asm.JNE.Imm(asm.R8, 0, "allow"),
		asm.And.Imm(asm.R7, unix.MS_MOVE),
		asm.JNE.Imm(asm.R7, 0, "deny"),
		asm.LoadMem(asm.R7, asm.R6, 16, asm.DWord),
	)
	b.readName(asm.R7)
	b.lookup(b.maps.filesystems)
	b.add(asm.JEq.Imm(asm.R0, 0, "deny"))
	b.end()
}

// What file systems call themselves (include/uapi/linux/magic.h).
const (
	magicProc = unix.PROC_SUPER_MAGIC
	magicSys  = unix.SYSFS_MAGIC
	// magicCgroup is that of cgroup v1.
	magicCgroup = unix.CGROUP_SUPER_MAGIC
)

// fmodeWrite is FMODE_WRITE.
const fmodeWrite = 2

// fileOpen: (file).
func (b *builder) fileOpen() {
	l := b.layout
	b.begin()
	b.add(asm.LoadMem(asm.R9, asm.R6, 0, asm.DWord))
	b.read(asm.R8, asm.R9, l.fileInode, asm.DWord)
	b.magic(asm.R8)
	b.add(
		asm.JEq.Imm(asm.R0, magicProc, "proc"),
		asm.JEq.Imm(asm.R0, magicCgroup, "cgroup"),
		asm.JNE.Imm(asm.R0, magicSys, "allow"),
	)
	b.read(asm.R7, asm.R9, l.fileMode, asm.Word)
	b.add(
		asm.And.Imm(asm.R7, fmodeWrite),
		asm.JNE.Imm(asm.R7, 0, "deny"),
		asm.Ja.Label("allow"),
	)
	b.label("cgroup")
	b.read(asm.R8, asm.R9, l.fileDentry, asm.DWord)
	b.flagsOf(asm.R8, "cgroup-known")
	b.add(
		asm.And.Imm(asm.R0, hidden),
		asm.JNE.Imm(asm.R0, 0, "deny"),
		asm.Ja.Label("allow"),
	)
	b.label("proc")
	b.read(asm.R7, asm.R8, l.procEntry, asm.DWord)
	b.add(asm.JNE.Imm(asm.R7, 0, "entry"))
	b.read(asm.R8, asm.R8, l.procSysctl, asm.DWord)
	b.add(asm.JEq.Imm(asm.R8, 0, "allow")) // a process's
	b.read(asm.R7, asm.R9, l.fileMode, asm.Word)
	b.add(
		asm.And.Imm(asm.R7, fmodeWrite),
		asm.JEq.Imm(asm.R7, 0, "allow"),
	)
	b.read(asm.R8, asm.R8, l.sysctlSet, asm.DWord)
	b.add(
		asm.FnGetCurrentTask.Call(),
		asm.Mov.Reg(asm.R7, asm.R0),
	)
	b.read(asm.R7, asm.R7, l.taskNamespaces, asm.DWord)
	b.read(asm.R7, asm.R7, l.namespacesNet, asm.DWord)
	b.add(
		asm.Add.Imm(asm.R7, l.netSysctls),
		asm.JEq.Reg(asm.R7, asm.R8, "allow"),
		asm.Ja.Label("deny"),
	)
	b.label("entry")
	b.read(asm.R8, asm.R9, l.fileDentry, asm.DWord)
	b.read(asm.R7, asm.R9, l.fileMode, asm.Word)
	b.add(
		asm.And.Imm(asm.R7, fmodeWrite),
		asm.JNE.Imm(asm.R7, 0, "write"),
	)
	b.flagsOf(asm.R8, "read-known")
	b.add(
		asm.And.Imm(asm.R0, hidden),
		asm.JNE.Imm(asm.R0, 0, "deny"),
		asm.Ja.Label("allow"),
	)
	b.label("write")
	b.read(asm.R8, asm.R8, l.dentryParent, asm.DWord)
	b.flagsOf(asm.R8, "write-known")
	b.add(
		asm.And.Imm(asm.R0, writable),
		asm.JEq.Imm(asm.R0, 0, "deny"),
	)
	b.end()
}

// bpf: (cmd, attr, size).
func (b *builder) bpf() {
	b.begin()
	b.add(asm.LoadMem(asm.R7, asm.R6, 0, asm.DWord))
	for _, command := range seccomp.ForeignBPF {
		b.add(asm.JEq.Imm32(asm.R7, int32(command), "deny"))
	}
	b.end()
}

// magic reads to R0 what file system an inode is of.
func (b *builder) magic(inode asm.Register) {
	b.read(asm.R7, inode, b.layout.inodeSuper, asm.DWord)
	b.read(asm.R0, asm.R7, b.layout.superMagic, asm.DWord)
}

// inodeSetattr: the dentry is one of its arguments, another one in newer kernels.
func (b *builder) inodeSetattr() {
	l := b.layout
	b.begin()
	b.add(asm.LoadMem(asm.R9, asm.R6, int16(8*l.setattrDentry), asm.DWord))
	b.read(asm.R8, asm.R9, l.dentryInode, asm.DWord)
	b.magic(asm.R8)
	b.add(
		asm.JEq.Imm(asm.R0, magicSys, "deny"),
		asm.JNE.Imm(asm.R0, magicProc, "allow"),
	)
	b.read(asm.R7, asm.R8, l.procEntry, asm.DWord)
	b.add(asm.JNE.Imm(asm.R7, 0, "entry"))
	b.read(asm.R7, asm.R8, l.procSysctl, asm.DWord)
	b.add(
		asm.JNE.Imm(asm.R7, 0, "deny"),
		asm.Ja.Label("allow"),
	)
	b.label("entry")
	b.flagsOf(asm.R9, "known")
	b.add(
		asm.And.Imm(asm.R0, settable),
		asm.JEq.Imm(asm.R0, 0, "deny"),
	)
	b.end()
}
