// Package ocispec builds the OCI specs of a phone's two containers from a profile and what the engine has prepared.
//
// It is pure: the same input gives the same spec, and nothing is looked up. Nothing is ever privileged: capabilities, devices and
// mounts are listed one by one, and the rules that hold for every guest stand here rather than in the profiles. A spec asks for
// nothing that needs CAP_SYS_RESOURCE in containerd, unless its Limits do.
package ocispec
