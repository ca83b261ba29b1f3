#!/bin/sh
# Checks what the init scripts make of a configuration: UCI and procd are played by the functions below, and the command line
# of every instance is compared with what it must be. Run it with any POSIX shell: sh packaging/openwrt/test-init.sh
# `test-init.sh --everything receiver` prints the command line of the shipped configuration with every option switched on, for
# a check against the program's own list.

set -eu
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

# ---- UCI: the file $scratch/uci has lines `section option value`; a list is several lines ----
uci() { awk -v s="$1" -v o="$2" '$1 == s && $2 == o { sub(/^[^ ]+ [^ ]+ /, ""); print }' "$scratch/uci"; }
config_load() { :; }
config_foreach() {
	_function=$1
	for _section in $(awk '{ print $1 }' "$scratch/uci" | uniq); do "$_function" "$_section"; done
}
config_get() {
	_value=$(uci "$2" "$3" | head -n 1)
	eval "$1=\${_value:-\${4:-}}"
}
config_get_bool() {
	config_get "$1" "$2" "$3" "${4:-0}"
	eval "_value=\$$1"
	case $_value in 1 | on | true | yes | enabled) eval "$1=1" ;; *) eval "$1=0" ;; esac
}
config_list_foreach() {
	_list_section=$1 _list_option=$2 _list_function=$3
	shift 3
	uci "$_list_section" "$_list_option" > "$scratch/list"
	while IFS= read -r _item; do "$_list_function" "$_item" "$@"; done < "$scratch/list"
}

# ---- procd: one argument a line, so that an argument with a space stays one ----
procd_open_instance() { echo "instance $1" >> "$scratch/out"; }
procd_set_param() {
	_name=$1
	shift
	[ "$_name" = command ] || return 0
	for _argument in "$@"; do echo "$_argument" >> "$scratch/out"; done
}
procd_append_param() { procd_set_param "$@"; }
procd_close_instance() { echo end >> "$scratch/out"; }
procd_add_reload_trigger() { echo "trigger $1" >> "$scratch/out"; }
procd_add_reload_interface_trigger() { echo "trigger network $1" >> "$scratch/out"; }
network_get_device() { case $2 in wan) eval "$1=eth1" ;; lan) eval "$1=br-lan" ;; *) return 1 ;; esac; }
logger() { echo "log $*" >> "$scratch/out"; }
chown() { echo "chown $*" >> "$scratch/out"; }

# $1 name of the check, $2 program, $3 function; configuration in $scratch/uci, expectation on standard input
check() {
	: > "$scratch/out"
	cat > "$scratch/expected"
	# The state folder is the real system's, and so is the library that the stubs above stand for.
	sed -e "s|^STATE=.*|STATE=$scratch/state|" -e 's|^	\. /lib/functions/network.sh$||' \
		"$here/mahp/files/mahp-$2.init" > "$scratch/init"
	(. "$scratch/init" && "$3")
	grep -v '^chown ' "$scratch/out" | sed "s|$scratch/state|STATE|" > "$scratch/got" || true
	if diff -u "$scratch/expected" "$scratch/got"; then
		echo "ok: $1"
	else
		echo "FAILED: $1"
		failed=1
	fi
}

# $1 program: its configuration as shipped, with the options that are comments (or without, when $2 is empty)
shipped() {
	sed -e "s/^	$2option \([a-z0-9_]*\) '\(.*\)'$/main \1 \2/" -e "s/^	$2list \([a-z0-9_]*\) '\(.*\)'$/main \1 \2/" \
		-e '/^main /!d' "$here/mahp/files/mahp-$1.config" > "$scratch/uci"
}

# What is run when everything that the shipped configuration only mentions is switched on: one argument a line.
if [ "${1:-}" = --everything ]; then
	shipped "$2" '#'
	: > "$scratch/out"
	sed -e 's|^	\. /lib/functions/network.sh$||' -e "s|^STATE=.*|STATE=$scratch/state|" \
		"$here/mahp/files/mahp-$2.init" > "$scratch/init"
	. "$scratch/init"
	start_service
	grep -v -e '^chown ' -e '^instance ' -e '^end$' "$scratch/out"
	exit 0
fi

shipped receiver ''
check "the receiver is disabled as shipped" receiver start_service < /dev/null
shipped sender ''
check "the sender is disabled as shipped" sender start_service < /dev/null

cat > "$scratch/uci" <<'END'
main session http://sender.example:7780/
main session 10.0.0.5@232.1.1.1:5000
main network wan
main listen 0.0.0.0:7790
main idle_leave 30s
main memory 48 MiB
main unicast 0
main require_auth 1
main allow_origin cdn.example
main allow_origin *.cdn.example
off disabled 1
off session http://never.example/
END
check "receiver: lists, values with spaces, switches, the device of a network" receiver start_service <<'END'
instance main
/usr/bin/mahp-receiver
--interface
eth1
--listen
0.0.0.0:7790
--idle-leave
30s
--memory
48 MiB
--require-auth=on
--unicast=off
--allow-origin
cdn.example
--allow-origin
*.cdn.example
--state-dir
STATE
--
http://sender.example:7780/
10.0.0.5@232.1.1.1:5000
end
END
check "receiver: reload when its network changes" receiver service_triggers <<'END'
trigger mahp-receiver
trigger network wan
END

cat > "$scratch/uci" <<'END'
main session --help
main network iptv
main interface br-lan
down session http://a.example/
down network iptv
END
check "receiver: a device wins over a network; a network that is down is told; no value is taken for a flag" \
	receiver start_service <<'END'
instance main
/usr/bin/mahp-receiver
--interface
br-lan
--state-dir
STATE
--
--help
end
instance down
/usr/bin/mahp-receiver
log -t mahp-receiver -p daemon.err network 'iptv' is not up: starting without --interface
--state-dir
STATE
--
http://a.example/
end
END

cat > "$scratch/uci" <<'END'
main url https://origin.example/live/master.m3u8?a=1&b=$HOME
main network wan
main ttl 4
main rate_limit 50 Mbit/s
main loop 1
main asm 0
main renditions 1280x720
END
check "sender" sender start_service <<'END'
instance main
/usr/bin/mahp-sender
--interface
eth1
--ttl
4
--rate-limit
50 Mbit/s
--asm=false
--loop=true
--renditions
1280x720
--key-file
STATE/sender.key
--
https://origin.example/live/master.m3u8?a=1&b=$HOME
end
END
exit $failed
