#include "textflag.h"

// termOne is what is added to the eventfd.
DATA termOne<>+0(SB)/8, $1
GLOBL termOne<>(SB), RODATA, $8

// termHandler handles SIGTERM, called by the kernel with the C conventions: R0 signal, R1 siginfo, R2 context. When the sender has no pid
// here (siginfo.si_pid is 0), it adds one to the eventfd. It uses no Go stack, no g, and only system calls that signal handlers may use.
TEXT termHandler<>(SB), NOSPLIT|NOFRAME, $0
	MOVWU 16(R1), R3
	CBNZ R3, inside
	MOVW ·termEvent(SB), R0
	MOVD $termOne<>(SB), R1
	MOVD $8, R2
	MOVD $64, R8 // write
	SVC
inside:
	RET

// func termHandlers() (handler, restorer uintptr)
TEXT ·termHandlers(SB), NOSPLIT, $0-16
	MOVD $termHandler<>(SB), R0
	MOVD R0, handler+0(FP)
	MOVD ZR, restorer+8(FP) // the kernel has its own
	RET
