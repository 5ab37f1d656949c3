#include "textflag.h"

// termOne is what is added to the eventfd.
DATA termOne<>+0(SB)/8, $1
GLOBL termOne<>(SB), RODATA, $8

// termHandler handles SIGTERM, called by the kernel with the C conventions: DI signal, SI siginfo, DX context. When the sender has no pid
// here (siginfo.si_pid is 0), it adds one to the eventfd. It uses no Go stack, no g, and only system calls that signal handlers may use.
TEXT termHandler<>(SB), NOSPLIT|NOFRAME, $0
	MOVL 16(SI), AX
	TESTL AX, AX
	JNZ inside
	MOVL ·termEvent(SB), DI
	LEAQ termOne<>(SB), SI
	MOVL $8, DX
	MOVL $1, AX // write
	SYSCALL
inside:
	RET

// termReturn ends a signal handler.
TEXT termReturn<>(SB), NOSPLIT|NOFRAME, $0
	MOVL $15, AX // rt_sigreturn
	SYSCALL
	INT $3

// func termHandlers() (handler, restorer uintptr)
TEXT ·termHandlers(SB), NOSPLIT, $0-16
	LEAQ termHandler<>(SB), AX
	MOVQ AX, handler+0(FP)
	LEAQ termReturn<>(SB), AX
	MOVQ AX, restorer+8(FP)
	RET
