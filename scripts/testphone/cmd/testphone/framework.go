package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/phonehost/phonehost/scripts/testphone/app"
	"github.com/phonehost/phonehost/scripts/testphone/logd"
	"github.com/phonehost/phonehost/scripts/testphone/property"
	"github.com/phonehost/phonehost/scripts/testphone/screen"
	"github.com/phonehost/phonehost/scripts/testphone/system"
	"github.com/phonehost/phonehost/scripts/testphone/zygote"
)

// logger sends messages to the log under a tag.
func logger(tag string) func(format string, args ...any) {
	return func(format string, args ...any) {
		_ = logd.Send("", logd.Record{
			Thread: uint16(os.Getpid()), Time: time.Now(), Priority: 'I', Tag: tag, Message: fmt.Sprintf(format, args...),
		}) // a log that nobody takes is no reason to stop
	}
}

// runZygote is the zygote, which starts the system server, until it is told to end.
func runZygote(ctx context.Context) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	program, err := os.Executable()
	if err == nil {
		err = zygote.Serve(ctx, zygote.Config{Program: program, SystemServer: program, Printf: logger("Zygote")})
	}
	if err != nil {
		return fail("zygote", err)
	}
	return 0
}

// runSystem is the system server until it is told to end. The phone has booted when it is ready and the screen has shown a picture.
func runSystem(ctx context.Context) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	props := property.NewClient("")
	sdk, err := props.Get(ctx, "ro.build.version.sdk")
	var level int
	if err == nil {
		level, err = strconv.Atoi(sdk)
	}
	var abis string
	if err == nil {
		abis, err = props.Get(ctx, "ro.product.cpu.abilist")
	}
	if err == nil {
		err = system.Serve(ctx, system.Config{
			SDK: level, ABIs: strings.Split(abis, ","), Chown: chown, Persistent: true, Printf: logger("system_server"),
			Ready: func(ctx context.Context) error { return bootWhenShown(ctx, props) },
			Shown: func(ctx context.Context, labels []string) {
				if err := props.Set(ctx, screen.AppsProperty, screen.JoinApps(labels)); err != nil && ctx.Err() == nil {
					logger("system_server")("%v", err)
				}
			},
		})
	}
	if err != nil && ctx.Err() == nil {
		return fail("system_server", err)
	}
	return 0
}

// chown gives a file to a uid. A phone without CAP_CHOWN boots all the same; it starts no apps.
func chown(path string, uid, gid int) error {
	err := os.Lchown(path, uid, gid)
	if errors.Is(err, syscall.EPERM) {
		logger("system_server")("%v: it stays root's", err)
		return nil
	}
	return err
}

// bootWhenShown waits for the first picture and says that the phone has booted.
func bootWhenShown(ctx context.Context, props *property.Client) error {
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	err := props.Watch(watch, screen.ShownProperty, func(p property.Property) {
		if p.Name == screen.ShownProperty && p.Value == "1" {
			cancel()
		}
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !errors.Is(err, context.Canceled) {
		return err
	}
	return screen.BootCompleted(ctx, props)
}

// runApp is the process of an app until the system server ends its link.
func runApp(ctx context.Context, name string) int {
	if err := app.Run(ctx, name, os.NewFile(zygote.Link, "link")); err != nil {
		return fail(name, err)
	}
	return 0
}
