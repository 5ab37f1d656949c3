// Package apkmake writes small Android packages: a binary manifest, optional native libraries, and a signature of scheme v2. testphone's
// own apps are made with it, and so are those of tests that have no Android tools.
//
// There is no code in them. Everything is deterministic: the same App and Key give the same bytes. aapt and apksigner accept what is written.
package apkmake
