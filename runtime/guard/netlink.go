package guard

import (
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
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

// scan is what a look through a send knows, on the stack of the program; each step of it finds it by its address.
const (
	scanData    = 8 * iota // address of what is sent
	scanLength             // of it, in bytes
	scanAt                 // where in it the next word is
	scanNext               // where in it the next message begins
	scanAbout              // what the message at scanAt is about
	scanVerdict            // not 0: it is refused
	scanSize
)

// stackScan is where it lies.
const stackScan = -96

// netlinkSend: (sk, skb). It goes through all that is sent, word by word, since attributes begin at words and lie within each other. The
// verifier looks at a step of bpf_loop once (Linux 5.17). As a loop of the program's own it walked each of 1024 words: 340 000 instructions
// on Linux 6.18, and on 7.3 more than a minute on a slow processor.
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
		// Zero, which the verifier must not know: before Linux 6.7 it looks at one step, and takes for dead what needs several.
		asm.Mov.Reg(asm.R1, asm.R8),
		asm.RSh.Imm(asm.R1, 32),
		asm.JGT.Imm(asm.R8, maxMessage, "deny"),
		asm.StoreMem(asm.RFP, stackScan+scanData, asm.R9, asm.DWord),
		asm.StoreMem(asm.RFP, stackScan+scanLength, asm.R8, asm.DWord),
	)
	for at := int16(scanAt); at < scanSize; at += 8 {
		b.add(asm.StoreMem(asm.RFP, stackScan+at, asm.R1, asm.DWord))
	}
	b.add(
		asm.Mov.Imm(asm.R1, maxMessage/4),
		asm.Instruction{OpCode: asm.LoadImmOp(asm.DWord), Dst: asm.R2, Src: asm.PseudoFunc, Constant: -1}.WithReference(wordStep),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, stackScan),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnLoop.Call(),
		asm.LoadMem(asm.R0, asm.RFP, stackScan+scanVerdict, asm.DWord),
		asm.JNE.Imm(asm.R0, 0, "deny"),
	)
	b.end()
	b.wordStep()
	function(b.code, 0, "guard_netlink_send", btf.GlobalFunc, "arguments")
}

// wordStep is the name of the function below.
const wordStep = "word_step"

// wordStep: (index, scan) looks at a word, and returns whether it was the last. In a message about links a word counts as the head of an attribute if it
// could be one: its lower half is the length. R6 is the scan, R7 where in it the word is, R9 its address, and R8 the word.
func (b *builder) wordStep() {
	first := len(b.code)
	b.add(
		asm.Mov.Reg(asm.R6, asm.R2).WithSymbol(wordStep),
		asm.LoadMem(asm.R7, asm.R6, scanAt, asm.DWord),
		asm.LoadMem(asm.R1, asm.R6, scanLength, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Add.Imm(asm.R2, 4),
		asm.JGT.Reg(asm.R2, asm.R1, "last"),
		asm.LoadMem(asm.R9, asm.R6, scanData, asm.DWord),
		asm.Add.Reg(asm.R9, asm.R7),
	)
	b.read(asm.R8, asm.R9, 0, asm.Word)
	b.add(
		asm.LoadMem(asm.R1, asm.R6, scanNext, asm.DWord),
		asm.JEq.Reg(asm.R1, asm.R7, "message"),
		asm.LoadMem(asm.R2, asm.R6, scanAbout, asm.DWord),
		asm.JEq.Imm(asm.R2, aboutNothing, "on"),
		asm.Mov.Reg(asm.R1, asm.R8),
		asm.And.Imm(asm.R1, 0xffff),
		asm.JLT.Imm(asm.R1, unix.SizeofNlAttr+4, "on"),
		asm.JGT.Imm(asm.R1, maxMessage, "on"),
		asm.RSh.Imm(asm.R8, 16),
		asm.And.Imm(asm.R8, 0xffff&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)),
		asm.JEq.Imm(asm.R2, aboutAddresses, "addresses"),
		asm.JEq.Imm(asm.R8, linkNamespace, "refuse"),
		asm.JEq.Imm(asm.R8, targetNamespace, "refuse"),
		asm.Ja.Label("on"),
		asm.JNE.Imm(asm.R8, addressNamespace, "on").WithSymbol("addresses"),
		asm.Mov.Imm(asm.R1, 1).WithSymbol("refuse"),
		asm.StoreMem(asm.R6, scanVerdict, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("last"),
		asm.Return(),
	)
	b.message()
	b.add(
		asm.Add.Imm(asm.R7, 4).WithSymbol("on"),
		asm.StoreMem(asm.R6, scanAt, asm.R7, asm.DWord),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	)
	function(b.code, first, wordStep, btf.StaticFunc, "index", "scan")
}

// message reads the head of a message, of which R8 is the length. What is shorter than its head ends what the kernel reads.
func (b *builder) message() {
	b.add(
		asm.JLT.Imm(asm.R8, unix.SizeofNlMsghdr, "last").WithSymbol("message"),
		asm.Add.Imm(asm.R8, 3),
		asm.And.Imm(asm.R8, ^3),
		asm.Add.Reg(asm.R8, asm.R7),
		asm.StoreMem(asm.R6, scanNext, asm.R8, asm.DWord),
	)
	b.read(asm.R0, asm.R9, 4, asm.Half)
	b.add(
		asm.Mov.Imm(asm.R1, aboutLinks),
		asm.Add.Imm(asm.R7, unix.SizeofNlMsghdr-4),
	)
	for _, kind := range []int32{unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_GETLINK, unix.RTM_SETLINK, unix.RTM_NEWLINKPROP, unix.RTM_DELLINKPROP} {
		b.add(asm.JEq.Imm(asm.R0, kind, "about"))
	}
	b.add(
		asm.Mov.Imm(asm.R1, aboutAddresses),
		asm.JEq.Imm(asm.R0, unix.RTM_GETADDR, "about"),
		asm.Mov.Imm(asm.R1, aboutNothing),
		asm.StoreMem(asm.R6, scanAbout, asm.R1, asm.DWord).WithSymbol("about"),
	)
}

// function gives the function that begins at code[first] the type that the kernel wants of functions which are called back: numbers of 64
// bits, and a result of 32.
func function(code asm.Instructions, first int, name string, linkage btf.FuncLinkage, parameters ...string) {
	word := &btf.Int{Name: "word", Size: 8}
	proto := &btf.FuncProto{Return: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}}
	for _, p := range parameters {
		proto.Params = append(proto.Params, btf.FuncParam{Name: p, Type: word})
	}
	code[first] = btf.WithFuncMetadata(code[first], &btf.Func{Name: name, Type: proto, Linkage: linkage})
}
