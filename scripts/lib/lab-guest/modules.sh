# shellcheck shell=bash
# The modules that a lab loads when it starts. Read by its init and by what makes the image.
# shellcheck disable=SC2034

share_modules=(9p 9pnet_virtio virtio_net)
host_modules=(kvm_amd overlay tun tap vhost_vsock erofs loop fuse virtio_rng)
network_modules=(bridge veth br_netfilter nf_tables nft_chain_nat nft_masq nft_compat xt_MASQUERADE
    iptable_nat ip6table_nat xt_conntrack xt_addrtype xt_comment xt_multiport xt_mark
    sch_ingress cls_u32 act_mirred cls_matchall macvtap dummy)
