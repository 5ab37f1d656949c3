/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Whether a package may be installed. Android's package manager unpacks it elsewhere and then renames the directory to
 * /data/app/~~RANDOM/PACKAGE-RANDOM, before Android 11 to /data/app/PACKAGE-RANDOM (PackageManagerServiceUtils.getNextCodePath). A package has no "-" in its name.
 * Directories are known by their names, wherever they are mounted.
 */
#pragma once

#include "kernel.h"
#include "verdict.h"

enum place {
	PLACE_OTHER,
	PLACE_APP,     /* in "app" */
	PLACE_PACKAGE, /* in "~~..." in "app" */
};

inline bool is_app(const struct dentry *directory)
{
	char name[4] = {};

	bpf_probe_read_kernel(name, sizeof(name), directory->d_name.name);
	return name[0] == 'a' && name[1] == 'p' && name[2] == 'p' && !name[3];
}

inline bool is_random(const struct dentry *directory)
{
	char name[2] = {};

	bpf_probe_read_kernel(name, sizeof(name), directory->d_name.name);
	return name[0] == '~' && name[1] == '~';
}

inline enum place place_of(const struct dentry *entry)
{
	const struct dentry *parent = entry->d_parent;

	if (is_random(parent))
		return is_app(parent->d_parent) ? PLACE_PACKAGE : PLACE_OTHER;
	return is_app(parent) ? PLACE_APP : PLACE_OTHER;
}

struct cutting {
	__u8 *name;
	bool found;
};

/* Clears a name from its first "-" on, a character a call. */
static long cut_one(__u32 i, struct cutting *c)
{
	__u8 *at;

	if (i >= NAME_SIZE)
		return 1;
	at = c->name + i;
	if (!*at)
		return 1;
	if (*at == '-')
		c->found = true;
	if (c->found)
		*at = 0;
	return 0;
}

/* Reads the package that an entry of a directory is named after. Returns whether there was a "-". */
inline bool read_package(const struct dentry *entry, struct denial_key *key)
{
	struct cutting c = { .name = key->name };

	bpf_probe_read_kernel_str(key->name, NAME_SIZE, entry->d_name.name);
	bpf_loop(NAME_SIZE, cut_one, &c, 0);
	return c.found;
}

/* Looks a package up, whose name key has. */
inline bool denied_name(struct phone phone, struct denial_key *key)
{
	__u32 index = phone.names, *bits;
	void *trie = bpf_map_lookup_elem(&names, &index);

	if (!trie)
		return true;
	key->number = 8 * NAME_SIZE;
	bits = bpf_map_lookup_elem(trie, &key->number);
	return bits ? *bits & NAME_INSTALL_DENY : phone.flags & PHONE_UNLISTED_DENY;
}

/*
 * Judges that a directory is about to be there under a name: moved, or made. In "app" itself, what has no "-" is where packages are unpacked
 * (vmdl1.tmp), or "~~...", which the package manager makes empty: one that is moved there could be full.
 */
inline int judge_directory(struct phone phone, const struct dentry *entry, bool moved)
{
	struct denial_key key = { .kind = DENIAL_INSTALL };
	enum place place = place_of(entry);
	bool cut;

	if (place == PLACE_OTHER)
		return 0;
	cut = read_package(entry, &key);
	if (place == PLACE_APP && key.name[0] == '~' && key.name[1] == '~') {
		if (!moved)
			return 0;
	} else if (place == PLACE_APP && !cut) {
		return 0;
	} else if (!denied_name(phone, &key)) {
		return 0;
	}
	key.number = (__u32)bpf_get_current_uid_gid();
	count_denial(slot_of(phone), &key);
	return -EPERM;
}

inline int judge_rename(const struct dentry *from, const struct dentry *to)
{
	const struct inode *inode = from->d_inode; /* of newer kernels the verifier knows that it can be NULL */
	struct phone phone;

	if (!inode || (inode->i_mode & S_IFMT) != S_IFDIR || !current_phone(&phone))
		return 0;
	return judge_directory(phone, to, true);
}

inline int judge_mkdir(const struct dentry *entry)
{
	struct phone phone;

	return current_phone(&phone) ? judge_directory(phone, entry, false) : 0;
}
