// Package protocol is the Wayland protocol as tables: for each interface its name, version, requests, events and their
// signatures, and constants for opcodes and enum values.
//
// Everything but this file is generated from Debian's descriptions (packages libwayland-dev and wayland-protocols). The
// tables are never written to.
package protocol

//go:generate go run ../internal/generate -out . /usr/share/wayland/wayland.xml /usr/share/wayland-protocols/stable/xdg-shell/xdg-shell.xml /usr/share/wayland-protocols/stable/viewporter/viewporter.xml /usr/share/wayland-protocols/stable/presentation-time/presentation-time.xml
