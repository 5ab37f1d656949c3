// Package zygote starts the processes of testphone's apps, in the order of system calls in which Android's zygote does
// (com_android_internal_os_Zygote.cpp, SpecializeCommon):
//
//	clone, in the zygote, which is root
//	setpgid(0, 0)
//	setgroups
//	setresgid
//	setresuid          an error ends the child, and only the child, by SIGABRT
//	the app
//
// Go cannot fork a process that goes on without exec. So the zygote executes the same program again as app_process, still as root, and
// that makes the calls in this order, each once, from one thread that stays locked to its system thread; then it executes the app under
// the package's name. The kernel gives the new program the credentials of the thread that calls execve and ends the others. To a host that
// watches setresuid and execve it is Android's zygote with one execve more at the beginning.
//
// # The socket
//
// /dev/socket/zygote takes a request as Android's does: the number of arguments, then the arguments, one a line:
//
//	--setuid=UID --setgid=GID --setgroups=GID,GID --nice-name=NAME android.app.ActivityThread
//
// A file descriptor comes with it and becomes the app's descriptor 3, its link to the system server, which on Android is binder. The answer
// is the pid in four bytes, big endian, and a zero byte; a pid of -1 says that the fork failed. As on Android, what fails after the fork is
// seen by the end of the child; the reason is written to the link, as JSON: {"error": "setresuid 10053: operation not permitted"}.
//
// The zygote reaps its children and says of each how it ended. Only root and the system's uid are answered.
package zygote
