/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Whether a package may be installed. Android's package manager unpacks it elsewhere and then renames the directory to
 * /data/app/~~RANDOM/PACKAGE-RANDOM, before Android 11 to /data/app/PACKAGE-RANDOM (PackageManagerServiceUtils.getNextCodePath). A package has no "-" in its name.
 * Directories are known by their names, wherever they are mounted: "app" is at the root of its file system, which is what is mounted at /data, or at
 * /mnt/expand/UUID for storage that was added. What apps call "app" in their own directories is theirs.
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

	if (directory->d_parent != directory->d_sb->s_root)
		return false;
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

struct end {
	const __u8 *name;
	__u32 at;
	bool dash;
};

/*
 * Looks for the end of a package, a character a call. Nothing that a call leaves is read by the next: verifiers before Linux 6.7 look at one call alone,
 * and take what it begins with for what all begin with.
 */
static long find_end(__u32 i, struct end *end)
{
	__u8 c;

	if (i >= NAME_SIZE)
		return 1;
	c = end->name[i];
	if (c && c != '-')
		return 0;
	end->at = i;
	end->dash = c == '-';
	return 1;
}

/* Reads the package that an entry of a directory is named after, padded with zeros. Returns whether there was a "-". */
inline bool read_package(const struct dentry *entry, struct denial_key *key)
{
	const unsigned char *name = entry->d_name.name;
	struct end end = { .name = key->name };

	bpf_probe_read_kernel_str(key->name, NAME_SIZE, name);
	bpf_loop(NAME_SIZE, find_end, &end, 0);
	__builtin_memset(key->name, 0, NAME_SIZE);
	bpf_probe_read_kernel(key->name, end.at & (NAME_SIZE - 1), name);
	return end.dash;
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
