// Global variables of the Linux kernel whose types BTF does not carry: all but the per-CPU ones, and
// those too where pahole was older than 1.18.
// One declaration a line; where kernels differ, the newest form first; "with" names what a kernel must have
// for its line to be taken; "struct { a, b }" is the one without a name that has just these members. The size
// of an array without bounds is that of its symbol. A comment names the kernels that have a variable (of
// Debian's 5.10, 6.1, 6.12 and 7.2) where not all four have it.

// tasks, processes
struct task_struct init_task;
struct mm_struct init_mm;
unsigned long init_stack[];
struct sighand_struct init_sighand;
struct signal_struct init_signals;
struct files_struct init_files;
struct fs_struct init_fs;
struct cred init_cred;
struct user_namespace init_user_ns;
struct pid_namespace init_pid_ns;
struct uts_namespace init_uts_ns;
struct ipc_namespace init_ipc_ns;
struct net init_net;
struct nsproxy init_nsproxy;
struct cgroup_namespace init_cgroup_ns;
struct time_namespace init_time_ns;
struct css_set init_css_set;
struct pid init_struct_pid;
struct group_info init_groups;
struct user_struct root_user;
int pid_max; // 5.10, 6.1, 6.12
int pid_max_min;
int pid_max_max;
int nr_threads;
int max_threads;
unsigned long total_forks;
unsigned long process_counts;
rwlock_t tasklist_lock;
spinlock_t pidmap_lock;
struct pid *cad_pid;
struct kmem_cache *task_group_cache;
struct task_group root_task_group;
struct list_head task_groups;
spinlock_t task_group_lock;
struct hlist_head *pid_hash; // before 4.15: Linux commit e8cfbc245e24 ("pid: remove pidhash")
unsigned int pidhash_shift; // likewise

// scheduler
struct rq runqueues;
unsigned int sysctl_sched_features;
struct mutex sched_domains_mutex;
struct root_domain def_root_domain;
struct sched_domain_topology_level *sched_domain_topology;
struct sched_domain_topology_level default_topology[];
const struct sched_class fair_sched_class;
const struct sched_class rt_sched_class;
const struct sched_class dl_sched_class;
const struct sched_class idle_sched_class;
const struct sched_class stop_sched_class;
const struct sched_class ext_sched_class; // 7.2
unsigned long avenrun[];
atomic_long_t calc_load_tasks;
unsigned long calc_load_update;
int scheduler_running;
struct static_key_false sched_clock_running;
unsigned int sysctl_sched_latency; // 5.10, 6.1
unsigned int sysctl_sched_min_granularity; // 5.10, 6.1
unsigned int sysctl_sched_wakeup_granularity; // 5.10, 6.1
unsigned int sysctl_sched_base_slice; // 6.12, 7.2
unsigned int normalized_sysctl_sched_base_slice; // 6.12, 7.2
int sysctl_sched_rt_runtime;
unsigned int sysctl_sched_child_runs_first; // 5.10, 6.1
int sched_rr_timeslice;
enum cpuhp_smt_control cpu_smt_control;
unsigned int cpu_smt_num_threads; // 6.12, 7.2
int max_lock_depth;
struct scx_sched *scx_root; // 7.2
struct list_head scx_tasks; // 7.2
atomic_t scx_enable_state_var; // 7.2
struct housekeeping housekeeping; // 6.1, 6.12, 7.2
unsigned int housekeeping_flags; // 5.10
cpumask_var_t housekeeping_mask; // 5.10

// cpus
unsigned int nr_cpu_ids;
unsigned int nr_node_ids;
unsigned long __per_cpu_offset[];
struct cpumask __cpu_possible_mask;
struct cpumask __cpu_online_mask;
struct cpumask __cpu_present_mask;
struct cpumask __cpu_active_mask;
struct cpumask __cpu_dying_mask; // 6.1, 6.12, 7.2
struct cpumask __cpu_enabled_mask; // 6.12, 7.2
atomic_t __num_online_cpus;
const unsigned long cpu_all_bits[];
const unsigned long cpu_bit_bitmap[][128];
unsigned int total_cpus;
unsigned int setup_max_cpus;
struct cpuinfo_x86 boot_cpu_data;
struct cpuinfo_x86 cpu_info;
u16 x86_cpu_to_apicid;
int smp_num_siblings; // 5.10, 6.1
int crashing_cpu;
atomic_t panic_cpu;
atomic_t panic_redirect_cpu; // 7.2
int cpu_number; // 5.10, 6.1, 7.2
struct task_struct *current_task; // 5.10, 6.1, 7.2
struct tss_struct cpu_tss_rw;
irq_cpustat_t irq_stat;
struct cpu_hw_events cpu_hw_events;
struct gdt_page gdt_page;
gate_desc idt_table[];
struct desc_ptr idt_descr;
unsigned long system_vectors[];
struct irq_stack *hardirq_stack_ptr; // 5.10, 6.1, 7.2
cpumask_var_t cpu_llc_shared_map;
cpumask_var_t cpu_sibling_map;
cpumask_var_t cpu_core_map;
unsigned long loops_per_jiffy;
unsigned int tsc_khz;
unsigned int cpu_khz;
enum x86_hypervisor_type x86_hyper_type;
struct paravirt_patch_template pv_ops;
struct x86_platform_ops x86_platform;
struct x86_init_ops x86_init;
nodemask_t node_states[NR_NODE_STATES];
int numa_node;
cpumask_var_t node_to_cpumask_map[];
u8 *numa_distance;
s16 __apicid_to_node[];
nodemask_t numa_nodes_parsed;
int cpu_hotplug_disabled;
struct percpu_rw_semaphore cpu_hotplug_lock;
struct cpuhp_cpu_state cpuhp_state;
struct cpuhp_step cpuhp_hp_states[];
struct boot_params boot_params;
u32 boot_cpu_physical_apicid;

// time
volatile unsigned long jiffies;
u64 jiffies_64;
struct tk_data timekeeper_data[]; // 7.2
struct tk_fast tk_fast_mono;
struct tk_fast tk_fast_raw;
raw_spinlock_t timekeeper_lock; // 5.10, 6.1, 6.12
int tick_do_timer_cpu;
ktime_t tick_next_period;
struct tick_sched tick_cpu_sched;
struct tick_device tick_cpu_device;
struct tick_device tick_broadcast_device;
bool tick_nohz_enabled;
struct { idle_cpus_mask, has_blocked_load, needs_update, next_balance, next_blocked } nohz;
struct { idle_cpus_mask, nr_cpus, has_blocked, needs_update, next_balance, next_blocked } nohz;
struct { idle_cpus_mask, nr_cpus, has_blocked, next_balance, next_blocked } nohz;
unsigned long tick_nohz_active;
cpumask_var_t tick_nohz_full_mask; // 6.1, 6.12, 7.2
bool tick_nohz_full_running; // 6.1, 6.12, 7.2
struct hrtimer_cpu_base hrtimer_bases;
unsigned int hrtimer_resolution;
struct timer_base timer_bases[];
struct list_head clocksource_list;
struct clocksource *curr_clocksource;
struct list_head watchdog_list;
struct clocksource clocksource_jiffies;
struct clocksource refined_jiffies;
struct clocksource clocksource_tsc;
struct clocksource clocksource_tsc_early;
struct list_head clockevent_devices;
struct list_head clockevents_released;
unsigned long preset_lpj;
struct timezone sys_tz;
int persistent_clock_is_local;
struct clocksource kvm_clock;
int time_status; // 5.10, 6.1, 6.12
long time_maxerror; // 5.10, 6.1, 6.12
s64 time_freq; // 5.10, 6.1, 6.12
// v6.13: Linux commit 10f7c178a9da ("timekeeping: Define a struct type for tk_core to make it reusable")
struct tk_data tk_core;
struct { seq, timekeeper } tk_core; // 5.10, 6.1, 6.12
// before 3.17: Linux commit 3fdb14fd1df7
struct timekeeper timekeeper;

// log
char *log_buf;
u32 log_buf_len;
char __log_buf[];
struct latched_seq clear_seq;
u64 clear_seq;
u64 syslog_seq;
struct printk_ringbuffer *prb;
struct printk_ringbuffer printk_rb_static;
struct printk_ringbuffer printk_rb_dynamic;
u64 console_seq; // 5.10
bool printk_time;
int console_printk[];
struct console *console_drivers; // 5.10, 6.1
struct hlist_head console_list; // 6.12, 7.2
int console_suspended; // 5.10, 6.1
int console_locked;
int oops_in_progress;
unsigned long panic_print;
int panic_timeout;
int panic_on_oops;
int panic_on_warn;
unsigned long panic_on_taint;
struct atomic_notifier_head panic_notifier_list;
struct atomic_notifier_head die_chain;
int suppress_printk;
bool ignore_loglevel;
unsigned int devkmsg_log;
int printk_delay_msec;
wait_queue_head_t log_wait;
enum system_states system_state;
u32 log_first_idx; // before 5.10: Linux commit 896fbe20b4e2 ("printk: use the lockless ringbuffer")
u32 log_next_idx; // likewise
u64 log_first_seq; // likewise
u64 log_next_seq; // likewise
u32 clear_idx; // likewise

// system
const char linux_banner[];
const char linux_proc_banner[];
char *saved_command_line;
char boot_command_line[];
char *static_command_line;
unsigned long tainted_mask;
const struct taint_flag taint_flags[];
bool early_boot_irqs_disabled;
struct rcu_state rcu_state;
struct rcu_data rcu_data;
int rcu_scheduler_active;
struct rcu_tasks rcu_tasks; // 6.1, 6.12, 7.2
struct rcu_tasks rcu_tasks_trace; // 5.10, 6.1, 6.12
bool srcu_init_done;
struct kimage *kexec_crash_image;
struct kimage *kexec_image;
struct resource crashk_res;
struct resource crashk_low_res;
note_buf_t *crash_notes;
unsigned char *vmcoreinfo_data;
size_t vmcoreinfo_size;
u32 *vmcoreinfo_note;
bool crash_kexec_post_notifiers;
crash_vmclear_fn *crash_vmclear_loaded_vmcss; // 5.10
u64 oops_id; // 5.10
int die_counter;
unsigned long sysctl_hung_task_timeout_secs;
int sysctl_hung_task_warnings;
unsigned long watchdog_enabled;
int watchdog_thresh;
struct cpumask watchdog_cpumask;
unsigned long watchdog_touch_ts;
unsigned int softlockup_panic;
unsigned int hardlockup_panic;
int sysrq_enabled;
int sysctl_panic_on_rcu_stall;
int sysctl_max_rcu_stall_to_panic; // 6.1, 6.12, 7.2
enum reboot_mode reboot_mode;
enum reboot_type reboot_type;
int reboot_cpu;
struct blocking_notifier_head reboot_notifier_list;
struct atomic_notifier_head restart_handler_list;
atomic_t system_freezing_cnt; // 5.10
bool pm_freezing;
const struct platform_suspend_ops *suspend_ops;
bool static_key_initialized;
struct { hashmask, hashshift, queues } __futex_data;
struct { queues, hashsize } __futex_data;
struct workqueue_struct *system_wq;
struct workqueue_struct *system_percpu_wq; // 6.12, 7.2
struct workqueue_struct *system_highpri_wq;
struct workqueue_struct *system_long_wq;
struct workqueue_struct *system_unbound_wq;
struct workqueue_struct *system_dfl_wq; // 6.12, 7.2
struct workqueue_struct *system_freezable_wq;
struct workqueue_struct *system_power_efficient_wq;
struct workqueue_struct *system_bh_wq; // 6.12, 7.2
struct mutex wq_pool_mutex;
struct mutex wq_pool_attach_mutex;
struct list_head workqueues;
struct idr worker_pool_idr;
struct worker_pool cpu_worker_pools[];
struct hlist_head unbound_pool_hash[];
cpumask_var_t wq_unbound_cpumask;
struct list_head kthread_create_list;
struct task_struct *kthreadd_task;
spinlock_t kthread_create_lock;
struct hlist_head kprobe_table[];
struct list_head kprobe_blacklist;
bool kprobes_all_disarmed;
struct rb_root uprobes_tree;
struct softirq_action softirq_vec[];
struct task_struct *ksoftirqd;
struct tasklet_head tasklet_vec;
struct tasklet_head tasklet_hi_vec;
struct list_head blk_cpu_done;
bool initcall_debug;

// modules
struct list_head modules;
struct kset *module_kset;
struct mutex module_mutex;
struct mod_tree_root mod_tree;
int modules_disabled;
struct blocking_notifier_head module_notify_list;
char *module_blacklist;
const struct kernel_symbol __start___ksymtab[];
const struct kernel_symbol __stop___ksymtab[];

// memory
unsigned long max_pfn;
unsigned long max_low_pfn;
unsigned long min_low_pfn;
void *high_memory;
unsigned long highest_memmap_pfn;
struct mem_section **mem_section;
struct pglist_data *node_data[];
unsigned long vmemmap_base;
unsigned long page_offset_base;
unsigned long vmalloc_base;
unsigned long phys_base;
phys_addr_t physical_mask;
pteval_t __default_kernel_pte_mask;
pteval_t __supported_pte_mask;
u64 sme_me_mask;
unsigned int pgdir_shift; // 6.1, 6.12, 7.2
unsigned int ptrs_per_p4d; // 6.1, 6.12, 7.2
unsigned int __pgtable_l5_enabled; // 6.1, 6.12, 7.2
struct kaslr_memory_region kaslr_regions[];
struct list_head vmap_area_list; // 5.10, 6.1
struct rb_root vmap_area_root; // 5.10, 6.1
struct vmap_node *vmap_nodes; // 6.12, 7.2
unsigned int nr_vmap_nodes; // 6.12, 7.2
unsigned int vmap_zone_size; // 6.12, 7.2
struct list_head free_vmap_area_list;
struct rb_root free_vmap_area_root;
spinlock_t vmap_area_lock; // 5.10, 6.1
struct vm_struct *vmlist;
atomic_long_t vmap_lazy_nr;
atomic_long_t nr_vmalloc_pages; // 5.10, 6.1, 6.12
struct vmap_block_queue vmap_block_queue;
struct list_head purge_vmap_area_list; // 6.1
pgd_t init_top_pgt[];
pgd_t trampoline_pgd_entry;
struct list_head pgd_list;
spinlock_t pgd_lock;
atomic_long_t _totalram_pages;
unsigned long totalreserve_pages;
unsigned long totalcma_pages;
atomic_long_t vm_zone_stat[NR_VM_ZONE_STAT_ITEMS];
atomic_long_t vm_node_stat[NR_VM_NODE_STAT_ITEMS];
atomic_long_t vm_numa_stat[]; // 5.10
atomic_long_t vm_numa_event[NR_VM_NUMA_EVENT_ITEMS]; // 6.1, 6.12, 7.2
struct vm_event_state vm_event_states;
const char * const vmstat_text[];
struct percpu_counter vm_committed_as;
int sysctl_overcommit_memory;
int sysctl_overcommit_ratio;
unsigned long sysctl_overcommit_kbytes;
int sysctl_max_map_count;
unsigned long sysctl_admin_reserve_kbytes;
unsigned long sysctl_user_reserve_kbytes;
int sysctl_oom_kill_allocating_task;
int sysctl_oom_dump_tasks;
int sysctl_panic_on_oom;
struct mutex oom_lock;
struct task_struct *oom_reaper_list;
bool oom_killer_disabled;
int min_free_kbytes;
int user_min_free_kbytes;
int watermark_scale_factor;
int watermark_boost_factor;
int sysctl_lowmem_reserve_ratio[];
int vm_swappiness;
int dirty_background_ratio;
int vm_dirty_ratio;
unsigned int dirty_writeback_interval;
unsigned int dirty_expire_interval;
struct wb_domain global_wb_domain;
struct list_head bdi_list;
struct rb_root bdi_tree;
struct backing_dev_info noop_backing_dev_info;
struct swap_info_struct *swap_info[];
unsigned int nr_swapfiles;
atomic_long_t nr_swap_pages;
long total_swap_pages;
struct plist_head swap_active_head;
struct plist_head *swap_avail_heads; // 5.10, 6.1, 6.12
struct address_space *swapper_spaces[]; // 5.10, 6.1, 6.12
unsigned int nr_swapper_spaces[]; // 5.10, 6.1, 6.12
struct address_space swap_space; // 7.2
struct list_head shmem_swaplist;
struct list_head slab_caches;
struct mutex slab_mutex;
enum slab_state slab_state;
struct kmem_cache *kmem_cache;
struct kmem_cache *kmem_cache_node;
struct kmem_cache *kmalloc_caches[NR_KMALLOC_TYPES][14];
const struct kmalloc_info_struct kmalloc_info[];
slab_flags_t slub_debug;
unsigned int slub_min_order;
unsigned int slub_max_order;
nodemask_t slab_nodes; // 6.1, 6.12, 7.2
bool kfence_enabled; // 6.12, 7.2
char *__kfence_pool; // 6.12, 7.2
struct kfence_metadata *kfence_metadata; // 6.12, 7.2
struct hstate hstates[];
int hugetlb_max_hstate;
unsigned int default_hstate_idx;
struct page *huge_zero_page; // 5.10, 6.1
struct folio *huge_zero_folio; // 6.12, 7.2
unsigned long huge_zero_pfn;
atomic_t huge_zero_refcount;
unsigned long huge_anon_orders_always; // 6.12, 7.2
unsigned long transparent_hugepage_flags;
struct khugepaged_scan khugepaged_scan;
struct task_struct *khugepaged_thread;
unsigned int khugepaged_pages_collapsed;
struct ksm_scan ksm_scan;
unsigned long ksm_run;
unsigned long ksm_stable_node_chains;
struct hlist_head mm_slots_hash[];
struct cma cma_areas[]; // 7.2
unsigned int cma_area_count; // 7.2
struct memblock memblock;
unsigned long zero_pfn; // 5.10, 6.1, 6.12
struct page *__zero_page; // 7.2
unsigned long zero_page_pfn; // 7.2
void *stack_slabs[]; // 6.1
struct xarray *zswap_trees[]; // 7.2
struct list_head zswap_pools; // 7.2
atomic_long_t zswap_stored_pages; // 7.2
bool zswap_enabled; // 7.2
bool zswap_has_pool; // 7.2
struct idr mem_cgroup_idr; // 5.10, 6.1
struct xarray mem_cgroup_private_ids; // 7.2
struct xarray mem_cgroup_ids; // 6.12
struct mem_cgroup *root_mem_cgroup;
struct cgroup_subsys memory_cgrp_subsys;
struct memcg_stock_pcp memcg_stock;
struct lru_pvecs lru_pvecs; // 5.10
struct lru_rotate lru_rotate; // 5.10, 6.1
struct per_cpu_pageset boot_pageset;
int movable_zone;
char * const zone_names[__MAX_NR_ZONES];
const char * const migratetype_names[MIGRATE_TYPES];
struct cma *hugetlb_cma[]; // 7.2
void *pcpu_base_addr;
int pcpu_unit_size;
int pcpu_nr_units;
struct list_head *pcpu_chunk_lists;
int pcpu_nr_slots;
struct pcpu_chunk *pcpu_first_chunk;
struct pcpu_chunk *pcpu_reserved_chunk;
const unsigned long *pcpu_unit_offsets;
struct list_head percpu_counters;
struct resource iomem_resource;
struct resource ioport_resource;
struct e820_table *e820_table;
struct pglist_data contig_page_data; // without CONFIG_NUMA
struct page *mem_map; // with CONFIG_FLATMEM
unsigned long max_mapnr; // likewise
// before 4.8: Linux commit 75ef71840539 ("mm, vmstat: add infrastructure for per-node vmstats")
atomic_long_t vm_stat[NR_VM_ZONE_STAT_ITEMS];
// before 5.0: Linux commit ca79b0c211af ("mm: convert totalram_pages and totalhigh_pages ...")
unsigned long totalram_pages;
struct zram zram_devices;
struct idr zram_index_idr;

// fs
struct list_head super_blocks;
spinlock_t sb_lock;
struct hlist_head *inode_hashtable;
unsigned int i_hash_shift;
unsigned int i_hash_mask;
struct hlist_bl_head *dentry_hashtable;
unsigned int d_hash_shift;
struct hlist_head *mount_hashtable;
unsigned int mp_hash_shift;
unsigned int m_hash_shift;
struct ida mnt_id_ida; // 5.10, 6.1, 6.12
struct hlist_head file_systems; // with struct file_system_type.list
struct file_system_type *file_systems;
struct files_stat_struct files_stat;
struct inodes_stat_t inodes_stat;
struct dentry_stat_t dentry_stat;
long nr_dentry;
long nr_dentry_unused;
unsigned long nr_inodes;
struct percpu_counter nr_files;
struct kmem_cache *filp_cachep; // 5.10, 6.1, 6.12
struct kmem_cache *names_cachep; // 5.10, 6.1, 6.12
struct kmem_cache *dentry_cache; // 5.10, 6.1, 6.12
struct kmem_cache *inode_cachep;
struct kmem_cache *bh_cachep;
struct kmem_cache *mnt_cache;
struct kmem_cache *vm_area_cachep;
struct kmem_cache *mm_cachep;
struct kmem_cache *fs_cachep;
struct kmem_cache *files_cachep;
struct kmem_cache *sighand_cachep;
struct kmem_cache *signal_cachep;
struct kmem_cache *task_struct_cachep;
struct kmem_cache *anon_vma_cachep;
struct kmem_cache *maple_node_cache; // 6.1, 6.12, 7.2
struct char_device_struct *chrdevs[];
struct kobj_map *cdev_map;
struct kobj_map *bdev_map; // 5.10
struct super_block *blockdev_superblock;
struct blk_major_name *major_names[];
struct vfsmount *pipe_mnt;
struct vfsmount *sock_mnt;
struct vfsmount *shm_mnt;
struct proc_dir_entry proc_root;
struct kernfs_root *sysfs_root;
struct kernfs_node *sysfs_root_kn;
struct file_system_type rootfs_fs_type;
dev_t ROOT_DEV;
unsigned int real_root_dev; // 5.10, 6.1, 6.12
struct rw_semaphore namespace_sem;
seqlock_t mount_lock;
seqlock_t rename_lock;
struct kobject *fs_kobj;
struct fsnotify_group *dnotify_group;
unsigned int sysctl_nr_open;
unsigned int sysctl_nr_open_max;
struct file_lock_list_struct file_lock_list;
struct hlist_head blocked_hash[];
struct list_head fuse_conn_list; // 6.12, 7.2
unsigned long aio_nr;
unsigned long aio_max_nr;
int inotify_max_queued_events;
const struct file_operations def_blk_fops;
struct file_system_type ext4_fs_type;
struct file_system_type shmem_fs_type;

// block, devices
const struct class block_class;
struct kobject *block_depr;
struct blkcg blkcg_root;
struct list_head all_blkcgs;
struct kset *bus_kset;
struct kset *class_kset;
struct kset *devices_kset;
struct kset *system_kset;
struct kobject *dev_kobj;
struct kobject *sysfs_dev_char_kobj;
struct kobject *sysfs_dev_block_kobj;
struct kobject *kernel_kobj;
struct kobject *mm_kobj;
struct kobject *hypervisor_kobj;
struct kobject *power_kobj;
struct kobject *firmware_kobj;
struct kobject *acpi_kobj;
struct device platform_bus;
const struct bus_type platform_bus_type;
const struct bus_type pci_bus_type;
struct list_head pci_root_buses;
struct pci_ops pci_root_ops;
const struct bus_type virtio_bus; // 6.12, 7.2
const struct device_type disk_type;
const struct device_type part_type;
struct list_head tty_drivers;
struct mutex tty_mutex;
struct tty_driver *console_driver;
struct vc vc_cons[];
int fg_console;
const struct consw *conswitchp;
const struct consw *con_driver_map[];
struct con_driver registered_con_driver[];
struct list_head input_dev_list;
struct list_head input_handler_list;
struct list_head misc_list;
struct fb_info *registered_fb[];
struct list_head dpm_list;
struct list_head dpm_prepared_list;
struct list_head deferred_probe_pending_list;
struct list_head deferred_probe_active_list;
struct dentry *deferred_devices; // 5.10
atomic_t probe_count;
struct mutex device_hotplug_lock;
const struct bus_type cpu_subsys;
const struct bus_type node_subsys;
const struct bus_type memory_subsys;
struct list_head irq_domain_list;
struct irq_domain *irq_default_domain;
struct kset *iommu_group_kset;
struct list_head dmar_drhd_units;
struct rw_semaphore dmar_global_lock;
struct efi efi;
struct mm_struct efi_mm;
struct acpi_table_fadt acpi_gbl_FADT;
struct acpi_namespace_node *acpi_gbl_root_node;
struct acpi_table_list acpi_gbl_root_table_list;
struct acpi_device *acpi_root;
const struct bus_type acpi_bus_type;

// irq, timers
struct xarray irq_desc_tree; // 5.10, 6.1
struct maple_tree sparse_irqs; // 6.12, 7.2
int nr_irqs; // 5.10, 6.1, 6.12
cpumask_var_t irq_default_affinity;
atomic_t irq_err_count; // 5.10, 6.1, 6.12
struct static_key_false force_irqthreads_key; // 6.1, 6.12, 7.2
vector_irq_t vector_irq;
struct irq_matrix *vector_matrix;
struct ioapic ioapics[];
unsigned long io_apic_irqs;
struct legacy_pic *legacy_pic;
struct legacy_pic null_legacy_pic;
struct irq_chip i8259A_chip;
struct irq_chip no_irq_chip;
struct irq_chip dummy_irq_chip;
struct irq_chip lapic_controller;
struct irq_chip ioapic_chip;
struct llist_head raised_list;
struct llist_head lazy_list;
struct llist_head call_single_queue;
struct call_function_data cfd_data;
call_single_data_t csd_data;
struct softnet_data softnet_data;

// net
struct list_head net_namespace_list;
struct rw_semaphore net_rwsem;
struct list_head pernet_list;
struct list_head *first_device;
rwlock_t dev_base_lock; // 5.10, 6.1
struct list_head ptype_all; // 5.10, 6.1
struct list_head ptype_base[];
const struct net_proto_family *net_families[];
struct kmem_cache *net_cachep;
struct list_head net_todo_list;
struct net_protocol *inet_protos[];
struct list_head inetsw[];
struct inet_hashinfo tcp_hashinfo;
struct proto tcp_prot;
struct proto udp_prot;
struct udp_table udp_table;
struct udp_table udplite_table; // 5.10, 6.1, 6.12
struct proto raw_prot;
struct raw_hashinfo raw_v4_hashinfo;
struct proto rawv6_prot;
struct proto tcpv6_prot;
struct proto udpv6_prot;
struct hlist_head unix_socket_table[]; // 5.10
atomic_long_t unix_nr_socks;
struct hlist_head bsd_socket_buckets[]; // 6.1, 6.12, 7.2
struct proto unix_proto; // 5.10
struct proto packet_proto;
atomic_long_t tcp_memory_allocated; // 5.10, 6.1, 6.12
struct percpu_counter tcp_sockets_allocated;
unsigned long tcp_memory_pressure;
unsigned int tcp_orphan_count;
long sysctl_tcp_mem[];
int sysctl_tcp_max_orphans;
long sysctl_udp_mem[];
atomic_long_t udp_memory_allocated; // 5.10, 6.1, 6.12
struct raw_notifier_head netdev_chain;
const struct class net_class;
int netdev_max_backlog; // 5.10, 6.1
struct net_hotdata net_hotdata; // 6.12, 7.2
int netdev_budget; // 5.10, 6.1
unsigned int netdev_budget_usecs; // 5.10, 6.1
int dev_tx_weight; // 5.10, 6.1
int weight_p;
const struct net_device_ops loopback_ops;
struct neigh_table arp_tbl;
struct neigh_table nd_tbl;
struct neigh_table *neigh_tables[];
struct rt_cache_stat rt_cache_stat;
struct dst_ops ipv4_dst_ops;
struct netlink_table *nl_table;
struct mutex rtnl_mutex;
struct rtnl_link **rtnl_msg_handlers[];
struct list_head proto_list;
struct mutex proto_list_mutex;
__u32 sysctl_wmem_max;
__u32 sysctl_rmem_max;
__u32 sysctl_wmem_default;
__u32 sysctl_rmem_default;
struct kmem_cache *skbuff_head_cache; // 5.10, 6.1
struct kmem_cache *skbuff_fclone_cache; // 5.10, 6.1
siphash_key_t net_secret;
atomic_t *ip_idents;
struct Qdisc noop_qdisc;
struct Qdisc_ops noop_qdisc_ops;
struct Qdisc_ops pfifo_qdisc_ops;
const struct Qdisc_ops *default_qdisc_ops;
struct bpf_dispatcher bpf_dispatcher_xdp;
struct static_key_false udp_encap_needed_key;

// ipc, cgroups, bpf, trace, security
struct cgroup_root cgrp_dfl_root;
struct list_head cgroup_roots;
struct cgroup_subsys *cgroup_subsys[CGROUP_SUBSYS_COUNT];
struct idr cgroup_hierarchy_idr;
struct mutex cgroup_mutex;
struct hlist_head css_set_table[];
spinlock_t css_set_lock;
int css_set_count;
struct percpu_rw_semaphore cgroup_threadgroup_rwsem;
struct idr prog_idr;
struct idr map_idr;
struct idr link_idr;
struct idr btf_idr;
spinlock_t bpf_lock;
struct list_head bpf_kallsyms;
int bpf_jit_enable;
long bpf_jit_limit;
atomic_long_t bpf_jit_current;
int sysctl_unprivileged_bpf_disabled;
struct list_head ftrace_trace_arrays;
struct trace_array global_trace;
struct list_head ftrace_events;
struct ftrace_ops *ftrace_ops_list;
int ftrace_enabled;
struct ftrace_page *ftrace_pages_start;
struct ftrace_page *ftrace_pages;
int tracing_disabled;
struct tracer *trace_types;
struct ftrace_ops global_ops;
struct hlist_head event_hash[];
struct tracer nop_trace;
struct list_head ftrace_event_list; // 5.10, 6.1
struct list_head event_subsystems;
struct mutex tracepoints_mutex;
struct static_key_false perf_sched_events;
struct static_key perf_swevent_enabled[PERF_COUNT_SW_MAX];
struct list_head pmus;
struct idr pmu_idr;
int sysctl_perf_event_paranoid;
int sysctl_perf_event_mlock;
int sysctl_perf_event_sample_rate;
struct security_hook_heads security_hook_heads; // 5.10, 6.1
struct selinux_state selinux_state;
int selinux_enabled_boot;
int apparmor_enabled;
int apparmor_initialized;
struct aa_ns *root_ns;
struct security_hook_list lockdown_hooks[];
enum lockdown_reason kernel_locked_down;
u32 audit_enabled;
int audit_initialized;
struct sk_buff_head audit_queue;
u32 audit_backlog_limit;
struct sk_buff_head audit_retry_queue;
struct sk_buff_head audit_hold_queue;
u32 audit_failure;
struct rw_semaphore uts_sem;
struct key_user root_key_user;
struct rb_root key_serial_tree;
struct list_head crypto_alg_list;
struct rw_semaphore crypto_alg_sem;
struct list_head rng_list; // 6.1, 6.12, 7.2
struct hwrng *current_rng; // 6.1, 6.12, 7.2
int debug_locks;
enum xen_domain_type xen_domain_type;
struct start_info *xen_start_info;
struct shared_info *HYPERVISOR_shared_info;
struct vcpu_info *xen_vcpu;
int kvmclock;
u64 hv_current_partition_id; // 6.1, 6.12, 7.2
struct ms_hyperv_info ms_hyperv;
struct ktermios tty_std_termios;
struct raw_notifier_head random_ready_chain; // 5.10
struct cpuidle_device *cpuidle_devices;
struct cpuidle_driver *cpuidle_curr_driver;
struct cpuidle_governor *cpuidle_curr_governor;
struct cpufreq_driver *cpufreq_driver;
struct list_head cpufreq_policy_list;
struct cpufreq_policy *cpufreq_cpu_data;
struct list_head cpufreq_governor_list;
struct list_head thermal_tz_list;
struct list_head thermal_cdev_list;
struct list_head leds_list; // 6.1, 6.12
struct list_head wakeup_sources;
const char *pm_states[];
suspend_state_t pm_suspend_target_state;
suspend_state_t mem_sleep_current;
struct hlist_head clk_root_list; // 5.10
struct hlist_head clk_orphan_list; // 5.10
struct vfsmount *debugfs_mount;
struct vfsmount *tracefs_mount;
