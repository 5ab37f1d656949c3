// Command testphone is every program of the testphone image, by the name that it is called with: init, sh, testphone-screen,
// servicemanager, zygote, app_process, system_server, and the commands of package applet. Called as testphone, its first argument is the
// name. In a process that the zygote has started it is the app, whatever the name.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/phonehost/phonehost/scripts/testphone/applet"
	"github.com/phonehost/phonehost/scripts/testphone/initd"
	"github.com/phonehost/phonehost/scripts/testphone/shell"
	"github.com/phonehost/phonehost/scripts/testphone/zygote"
)

var version = "dev"

func main() {
	if name := os.Getenv(zygote.AppEnv); name != "" {
		os.Exit(runApp(context.Background(), name))
	}
	args := os.Args
	name := filepath.Base(args[0])
	if name == "testphone" {
		if len(args) < 2 {
			fmt.Fprintln(os.Stderr, "testphone: which command? One of init, sh, testphone-screen, servicemanager, zygote, version and", applet.Names())
			os.Exit(2)
		}
		args = args[1:]
		name = args[0]
	}
	os.Exit(run(context.Background(), name, args[1:]))
}

func run(ctx context.Context, name string, args []string) int {
	if name == "init" {
		return runInit(ctx, args)
	}
	switch name {
	case "sh":
		return shell.Main(ctx, shell.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, args)
	case "testphone-screen":
		return runScreen(ctx)
	case "servicemanager":
		return runManager(ctx)
	case "zygote":
		return runZygote(ctx)
	case "app_process":
		return fail("app_process", zygote.Specialize(args))
	case "system_server":
		return runSystem(ctx)
	case "version":
		fmt.Println(version)
		return 0
	}
	code, err := applet.Run(ctx, applet.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, name, args)
	if err != nil {
		return fail("testphone", err)
	}
	return code
}

func runInit(ctx context.Context, args []string) int {
	return fail("init", initd.Run(ctx, initd.Config{
		Args:    args,
		Version: version,
		Stdout:  os.Stdout,
		Services: append(managerService(), []initd.Service{
			{Name: "zygote", Args: []string{"/system/bin/zygote"}},
			{Name: "composer", Args: []string{"/system/bin/testphone-screen"}},
			{Name: "flood", Args: []string{"/system/bin/flood"}, Oneshot: true, Disabled: true},
		}...),
	}))
}

func fail(name string, err error) int {
	fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	return 1
}
