package guard

import (
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// What messages of NETLINK_ROUTE can say about another network namespace, by the number that it has in the sender's: one end of a veth pair
// tells the number of the namespace that the other is in (rtnetlink(7); include/uapi/linux/if_link.h, if_addr.h).
const (
	linkNamespace    = 37 // IFLA_LINK_NETNSID: the link that a new one lies on is there
	targetNamespace  = 46 // IFLA_TARGET_NETNSID: it is about a link there; in the middle of the message for the peer of a new link
	addressNamespace = 10 // IFA_TARGET_NETNSID: the addresses there
)

// maxMessage is the longest send on such a socket that a guest may make, in bytes: what is longer cannot be looked through.
const maxMessage = 4096

// What a message is about.
const (
	aboutNothing = iota // that could name a namespace
	aboutLinks
	aboutAddresses
)

// netlinkSend: (sk, skb). It goes through all that is sent, word by word, since attributes begin at words and lie within each other. In a
// message about links a word counts as the head of an attribute if it could be one: its lower half is the length.
func (b *builder) netlinkSend() {
	l := b.layout
	b.begin()
	b.add(asm.LoadMem(asm.R7, asm.R6, 0, asm.DWord))
	b.read(asm.R7, asm.R7, l.socketProtocol, asm.Half)
	b.add(
		asm.JNE.Imm(asm.R7, unix.NETLINK_ROUTE, "allow"),
		asm.LoadMem(asm.R7, asm.R6, 8, asm.DWord),
	)
	b.read(asm.R9, asm.R7, l.packetData, asm.DWord)
	b.read(asm.R8, asm.R7, l.packetLength, asm.Word)
	b.add(
		asm.JGT.Imm(asm.R8, maxMessage, "deny"),
		// R6 is where it is in the R8 bytes at R9, and R7 what the message there is about.
		asm.Mov.Imm(asm.R6, 0),
		asm.Mov.Imm(asm.R7, aboutNothing),
		asm.StoreMem(asm.RFP, stackNext, asm.R6, asm.DWord),
	)
	b.label("word")
	b.add(
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Add.Imm(asm.R1, 4),
		asm.JGT.Reg(asm.R1, asm.R8, "allow"),
		asm.Mov.Reg(asm.R3, asm.R9),
		asm.Add.Reg(asm.R3, asm.R6),
	)
	b.read(asm.R0, asm.R3, 0, asm.Word)
	b.add(
		asm.LoadMem(asm.R1, asm.RFP, stackNext, asm.DWord),
		asm.JEq.Reg(asm.R1, asm.R6, "message"),
		asm.JEq.Imm(asm.R7, aboutNothing, "on"),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.And.Imm(asm.R1, 0xffff),
		asm.JLT.Imm(asm.R1, unix.SizeofNlAttr+4, "on"),
		asm.JGT.Imm(asm.R1, maxMessage, "on"),
		asm.RSh.Imm(asm.R0, 16),
		asm.And.Imm(asm.R0, 0xffff&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)),
		asm.JEq.Imm(asm.R7, aboutAddresses, "addresses"),
		asm.JEq.Imm(asm.R0, linkNamespace, "deny"),
		asm.JEq.Imm(asm.R0, targetNamespace, "deny"),
		asm.Ja.Label("on"),
	)
	b.message()
	b.add(
		asm.JEq.Imm(asm.R0, addressNamespace, "deny").WithSymbol("addresses"),
		asm.Add.Imm(asm.R6, 4).WithSymbol("on"),
		asm.JLT.Imm(asm.R6, maxMessage, "word"),
	)
	b.end()
}

// message reads the head of a message at R6, whose length is in R0. What is shorter than its head ends what the kernel reads.
func (b *builder) message() {
	b.add(
		asm.JLT.Imm(asm.R0, unix.SizeofNlMsghdr, "allow").WithSymbol("message"),
		asm.Add.Imm(asm.R0, 3),
		asm.And.Imm(asm.R0, ^3),
		asm.Add.Reg(asm.R0, asm.R6),
		asm.StoreMem(asm.RFP, stackNext, asm.R0, asm.DWord),
		asm.Mov.Reg(asm.R3, asm.R9),
		asm.Add.Reg(asm.R3, asm.R6),
	)
	b.read(asm.R0, asm.R3, 4, asm.Half)
	b.add(
		asm.Mov.Imm(asm.R7, aboutLinks),
		asm.Add.Imm(asm.R6, unix.SizeofNlMsghdr-4),
	)
	for _, kind := range []int32{unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_GETLINK, unix.RTM_SETLINK, unix.RTM_NEWLINKPROP, unix.RTM_DELLINKPROP} {
		b.add(asm.JEq.Imm(asm.R0, kind, "on"))
	}
	b.add(
		asm.Mov.Imm(asm.R7, aboutAddresses),
		asm.JEq.Imm(asm.R0, unix.RTM_GETADDR, "on"),
		asm.Mov.Imm(asm.R7, aboutNothing),
		asm.Ja.Label("on"),
	)
}
