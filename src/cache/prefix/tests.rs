use super::*;

fn page(pools: &mut [PagePool]) -> Vec<Page> {
    pools.iter_mut().map(|p| p.alloc().unwrap()).collect()
}

/// Computes `tokens` (whole pages) as a sequence would and leaves.
fn visit(tree: &mut PrefixTree, pools: &mut [PagePool], tokens: &[u32]) -> usize {
    let mut tables = vec![Vec::new(); pools.len()];
    let mut at = tree.share(tokens, tokens.len(), &mut tables, pools);
    let hit = tables[0].len();
    for chunk in tokens.chunks_exact(2).skip(hit) {
        let mut pages = page(pools);
        at = tree.insert(at, chunk, &mut pages, pools);
        tables.iter_mut().zip(&pages).for_each(|(t, &p)| t.push(p));
    }
    tree.check([at].into_iter()).unwrap();
    tree.detach(at);
    tables.iter().zip(pools.iter_mut()).for_each(|(t, pool)| t.iter().for_each(|&p| pool.release(p)));
    tree.check(std::iter::empty()).unwrap();
    hit
}

#[test]
fn shares_what_is_equal_and_evicts_the_oldest_leaf() {
    let mut pools = [PagePool::new(8).unwrap(), PagePool::new(8).unwrap()];
    let mut tree = PrefixTree::new(2, &[Keep::All; 2], 8).unwrap();
    assert_eq!(visit(&mut tree, &mut pools, &[1, 2, 3, 4]), 0);
    assert_eq!(visit(&mut tree, &mut pools, &[1, 2, 3, 4, 5, 6]), 2);
    assert_eq!(visit(&mut tree, &mut pools, &[1, 2, 9, 9]), 1);
    assert_eq!(visit(&mut tree, &mut pools, &[3, 4]), 0, "the same tokens under another parent are another page");
    let matched = |tree: &PrefixTree, max| tree.matched(&[1, 2, 3, 4, 5, 6], max, &pools).0;
    assert_eq!((matched(&tree, 6), matched(&tree, 5)), (3, 2));
    assert_eq!(pools.each_ref().map(|p| (p.free(), p.cached())), [(3, 5); 2]);
    assert!(tree.evict(&mut pools));
    assert_eq!(tree.matched(&[1, 2, 3, 4, 5, 6], 6, &pools), (2, 2), "the deepest page of the oldest visit went first");
    while tree.evict(&mut pools) {
        tree.check(std::iter::empty()).unwrap();
    }
    assert_eq!(pools.each_ref().map(|p| (p.free(), p.cached())), [(8, 0); 2]);
}

#[test]
fn two_that_computed_the_same_page_end_with_one() {
    let mut pools = [PagePool::new(4).unwrap()];
    let mut tree = PrefixTree::new(2, &[Keep::All], 4).unwrap();
    let (mut a, mut b) = (page(&mut pools), page(&mut pools));
    (0..2).for_each(|_| tree.attach(ROOT));
    let first = tree.insert(ROOT, &[7, 7], &mut a, &mut pools);
    let second = tree.insert(ROOT, &[7, 7], &mut b, &mut pools);
    assert_eq!((first, a.clone()), (second, b));
    assert_eq!(pools[0].free(), 3);
    tree.check([first, second].into_iter()).unwrap();
    assert!(!tree.evict(&mut pools), "it is in use");
    tree.pin(first);
    (0..2).for_each(|_| tree.detach(first));
    assert!(!tree.evict(&mut pools), "it is pinned");
    tree.unpin(first);
    (0..2).for_each(|_| pools[0].release(a[0]));
    assert!(tree.evict(&mut pools));
    assert_eq!(pools[0].free(), 4);
}
