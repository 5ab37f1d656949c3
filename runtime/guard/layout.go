package guard

import (
	"fmt"

	"github.com/cilium/ebpf/btf"
)

// layout is where this kernel keeps what the programs read, in bytes.
type layout struct {
	fileMode, fileInode, fileDentry      int32
	inodeSuper, superMagic               int32
	dentryInode, dentryParent, nameChars int32
	// Of a procfs's inode, from the inode on: these lie before it.
	procEntry, procSysctl         int32
	sysctlSet                     int32
	taskNamespaces, namespacesNet int32
	netSysctls                    int32
	// Of what is sent by a socket.
	socketProtocol, packetData, packetLength int32
	// setattrDentry is the argument of inode_setattr that is the dentry.
	setattrDentry int32
}

func readLayout() (*layout, error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("the kernel's type information: %w", err)
	}
	l := &layout{}
	var vfsInode int32
	for _, want := range []struct {
		into  *int32
		path  []string // a structure, and the members to walk through
		types []string // of the structures that members are
	}{
		{&l.fileMode, []string{"file", "f_mode"}, nil},
		{&l.fileInode, []string{"file", "f_inode"}, nil},
		{&l.fileDentry, []string{"file", "f_path", "dentry"}, nil},
		{&l.inodeSuper, []string{"inode", "i_sb"}, nil},
		{&l.superMagic, []string{"super_block", "s_magic"}, nil},
		{&l.dentryInode, []string{"dentry", "d_inode"}, nil},
		{&l.dentryParent, []string{"dentry", "d_parent"}, nil},
		{&l.nameChars, []string{"dentry", "d_name", "name"}, nil},
		{&l.procEntry, []string{"proc_inode", "pde"}, nil},
		{&l.procSysctl, []string{"proc_inode", "sysctl"}, nil},
		{&vfsInode, []string{"proc_inode", "vfs_inode"}, nil},
		{&l.sysctlSet, []string{"ctl_table_header", "set"}, nil},
		{&l.taskNamespaces, []string{"task_struct", "nsproxy"}, nil},
		{&l.namespacesNet, []string{"nsproxy", "net_ns"}, nil},
		{&l.netSysctls, []string{"net", "sysctls"}, nil},
		{&l.socketProtocol, []string{"sock", "sk_protocol"}, nil},
		{&l.packetData, []string{"sk_buff", "data"}, nil},
		{&l.packetLength, []string{"sk_buff", "len"}, nil},
	} {
		if *want.into, err = offset(spec, want.path); err != nil {
			return nil, err
		}
	}
	l.procEntry -= vfsInode
	l.procSysctl -= vfsInode
	l.setattrDentry, err = argument(spec, "bpf_lsm_inode_setattr", "dentry")
	return l, err
}

// offset finds a member of a structure, through the structures and unions that its members are.
func offset(spec *btf.Spec, path []string) (int32, error) {
	var s *btf.Struct
	if err := spec.TypeByName(path[0], &s); err != nil {
		return 0, fmt.Errorf("the kernel's struct %s: %w", path[0], err)
	}
	var at btf.Type = s
	bytes := int32(0)
	for _, member := range path[1:] {
		n, inner, ok := find(at, member)
		if !ok {
			return 0, fmt.Errorf("the kernel's struct %s has no %s", path[0], member)
		}
		bytes, at = bytes+n, inner
	}
	return bytes, nil
}

// find looks for a member, also in members without a name.
func find(t btf.Type, member string) (offset int32, inner btf.Type, ok bool) {
	var members []btf.Member
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		members = t.Members
	case *btf.Union:
		members = t.Members
	}
	for _, m := range members {
		if m.Name == member {
			return int32(m.Offset.Bytes()), m.Type, true
		}
		if m.Name == "" {
			if n, inner, ok := find(m.Type, member); ok {
				return int32(m.Offset.Bytes()) + n, inner, true
			}
		}
	}
	return 0, nil, false
}

// argument finds which argument of a function is a pointer to a structure, counted from 0.
func argument(spec *btf.Spec, function, structure string) (int32, error) {
	var f *btf.Func
	if err := spec.TypeByName(function, &f); err != nil {
		return 0, fmt.Errorf("the kernel's %s: %w", function, err)
	}
	proto, ok := f.Type.(*btf.FuncProto)
	if !ok {
		return 0, fmt.Errorf("the kernel's %s is no function", function)
	}
	for i, p := range proto.Params {
		if pointer, ok := btf.UnderlyingType(p.Type).(*btf.Pointer); ok {
			if s, ok := btf.UnderlyingType(pointer.Target).(*btf.Struct); ok && s.Name == structure {
				return int32(i), nil
			}
		}
	}
	return 0, fmt.Errorf("the kernel's %s takes no struct %s", function, structure)
}
